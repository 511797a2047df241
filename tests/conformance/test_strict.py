"""The validation finds each kind of fault; otherwise the suite would prove nothing."""

from typing import Any

import openai.types.chat as openai_chat
import pytest
from anthropic.types import Message, RawMessageStopEvent, RawMessageStreamEvent
from pydantic import ValidationError

from tests.conformance.strict import as_sent, check, check_event

CHOICE: dict[str, Any] = {
    "index": 0,
    "finish_reason": "stop",
    "message": {"role": "assistant", "content": "yes"},
}
WHOLE: dict[str, Any] = {
    "id": "1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [CHOICE],
}


def test_a_right_answer_passes() -> None:
    assert check(openai_chat.ChatCompletion, WHOLE).choices[0].message.content == "yes"


@pytest.mark.parametrize("missing", ["id", "object", "created", "model", "choices"])
def test_a_missing_field_is_found(missing: str) -> None:
    with pytest.raises(ValidationError, match=missing):
        check(openai_chat.ChatCompletion, {key: value for key, value in WHOLE.items() if key != missing})


@pytest.mark.parametrize(
    ("field", "value"), [("created", "1"), ("created", 1.5), ("object", "list"), ("id", 7)]
)
def test_a_value_of_another_type_is_found(field: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=field):
        check(openai_chat.ChatCompletion, WHOLE | {field: value})


def test_an_undeclared_field_is_named_by_its_path() -> None:
    message = CHOICE["message"] | {"mood": "good"}
    with pytest.raises(AssertionError, match=r"choices\[\]\.message\.mood"):
        check(openai_chat.ChatCompletion, WHOLE | {"choices": [CHOICE | {"message": message}]})


def test_the_extras_that_are_known_pass() -> None:
    check(openai_chat.ChatCompletion, WHOLE | {"timings": {"prompt_n": 1}})


def test_an_event_of_no_known_kind_is_found() -> None:
    with pytest.raises(AssertionError, match="no event"):
        check_event(RawMessageStreamEvent, Message.construct(type="message_began"))
    with pytest.raises(ValidationError):
        check_event(RawMessageStreamEvent, RawMessageStopEvent.construct(type="message_began"))


def test_an_object_of_a_library_gives_back_its_json() -> None:
    sent = {"id": "msg", "type": "message", "content": [{"type": "text"}], "odd": 1}
    assert as_sent(Message.construct(**sent)) == sent  # type: ignore[arg-type]
