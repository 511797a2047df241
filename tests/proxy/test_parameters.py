"""Parameters that a model's settings give, set and take out."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.config.schema import RequestSettings
from agents.chat import Chat, Sampling
from proxy.apis.openai.request import decode_request
from proxy.apis.requests import fields_of
from proxy.parameters import (
    adjusted,
    answer_limit,
    set_in_body,
    set_in_ollama_body,
    with_parameters,
)

Json = dict[str, Any]
THINKING = {"chat_template_kwargs": {"enable_thinking": True, "reasoning_effort": "high"}}


@pytest.mark.parametrize(
    ("given", "settings", "expected"),
    [
        ({}, {"default": {"seed": 1}}, {"seed": 1}),
        ({"seed": 2}, {"default": {"seed": 1}}, {"seed": 2}),
        ({"seed": 2}, {"set": {"seed": 1}}, {"seed": 1}),
        ({"seed": None}, {"default": {"seed": 1}}, {"seed": 1}),
        ({"seed": 2, "top_k": 3}, {"strip": ["seed"]}, {"top_k": 3}),
        ({"seed": 2}, {"strip": ["seed"], "default": {"seed": 1}}, {"seed": 1}),
        ({"max_completion_tokens": 9}, {"default": {"max_tokens": 5}}, {"max_completion_tokens": 9}),
        ({"max_completion_tokens": 9, "n_predict": 8}, {"set": {"max_tokens": 5}}, {"max_tokens": 5}),
        ({"max_completion_tokens": 9}, {"strip": ["max_tokens"]}, {}),
        ({"a": {"x": 1}}, {"default": {"a": {"x": 2, "y": 3}}}, {"a": {"x": 1, "y": 3}}),
        ({"a": {"x": 1, "y": 4}}, {"set": {"a": {"x": 2}}}, {"a": {"x": 2, "y": 4}}),
        ({"a": {"x": 1, "y": 4}}, {"strip": ["a.x", "b.c"]}, {"a": {"y": 4}}),
        ({"a": {"x": 1}}, {"strip": ["a.x"]}, {}),
        ({"a": 5}, {"strip": ["a.x"]}, {"a": 5}),
        ({}, {"set": {"reasoning_effort": "high"}}, THINKING),
        ({}, {"set": {"reasoning_effort": "none"}}, {"chat_template_kwargs": {"enable_thinking": False}}),
        (THINKING, {"strip": ["reasoning_effort"]}, {}),
        (
            {"chat_template_kwargs": {"enable_thinking": False, "x": 1}},
            {"default": {"reasoning_effort": "high"}},
            {"chat_template_kwargs": {"enable_thinking": False, "x": 1}},
        ),
    ],
)
def test_adjusting(given: Json, settings: Json, expected: Json) -> None:
    assert adjusted(given, RequestSettings(**settings)) == expected


def test_a_canonical_request() -> None:
    chat = Chat(model="m", messages=[], sampling=Sampling(seed=1, num_ctx=7), think="low", extra={"x": 1})
    settings = RequestSettings(
        set={"reasoning_effort": "none", "temperature": 0.5, "stop": "END"}, strip=["seed", "x"]
    )
    changed = with_parameters(chat, settings)
    assert changed == msgspec.structs.replace(
        chat, sampling=Sampling(temperature=0.5, stop=["END"], num_ctx=7), think=False, extra={}
    )
    assert with_parameters(chat, None) is chat


@pytest.mark.parametrize(
    ("asked", "settings", "limit"),
    [
        (None, None, None),
        (5, None, 5),
        (5, {"set": {"max_tokens": 9}}, 9),
        (None, {"default": {"max_tokens": 9}}, 9),
        (5, {"default": {"max_tokens": 9}}, 5),
        (5, {"strip": ["max_tokens"]}, None),
    ],
)
def test_the_limit_that_a_key_reserves(
    asked: float | None, settings: Json | None, limit: float | None
) -> None:
    assert answer_limit(asked, RequestSettings(**settings) if settings is not None else None) == limit


PARAMETERS = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.sampled_from([0.0, 0.5, 1.0]),
        "seed": st.integers(0, 3),
        "max_tokens": st.integers(1, 9),
        "stop": st.sampled_from(["a", ["b", "c"]]),
        "reasoning_effort": st.sampled_from(["none", "low", "high", "max"]),
        "chat_template_kwargs": st.fixed_dictionaries(
            {}, optional={"enable_thinking": st.booleans(), "x": st.integers(0, 3), "y": st.just({"z": 1})}
        ),
        "grammar": st.just("root ::= x"),
        "samplers": st.just(["top_k"]),
    },
)
ASKED = st.tuples(
    PARAMETERS,
    st.fixed_dictionaries(
        {},
        optional={
            "max_completion_tokens": st.integers(10, 20),
            "reasoning": st.just({"effort": "medium"}),
            "logit_bias": st.just({"5": 1.0}),
            "seed": st.none(),
        },
    ),
).map(lambda both: {**both[0], **both[1]})
SETTINGS = st.builds(
    RequestSettings,
    default=PARAMETERS,
    set=PARAMETERS,
    strip=st.lists(
        st.sampled_from(
            ["temperature", "max_tokens", "reasoning_effort", "chat_template_kwargs.x", "logit_bias"]
        ),
        unique=True,
    ),
)


@given(ASKED, SETTINGS)
def test_a_body_that_passes_unchanged_means_what_a_translated_one_does(
    asked: Json, settings: RequestSettings
) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **asked}
    text = json.dumps(body).encode()
    changed = decode_request(msgspec.json.encode(set_in_body(fields_of(text), settings)))
    translated = with_parameters(decode_request(text), settings)
    assert parts_of(changed) == parts_of(translated)


def parts_of(chat: Chat) -> Json:
    """A chat's fields, with what is on by default left out of the template's arguments."""
    arguments = dict(chat.extra.get("chat_template_kwargs", {}))
    arguments.pop("enable_thinking", None)
    arguments.pop("reasoning_effort", None)
    rest = {name: value for name, value in chat.extra.items() if name != "chat_template_kwargs"}
    return {"sampling": chat.sampling, "think": bool(chat.think), "extra": rest, "arguments": arguments}


@given(ASKED, SETTINGS)
def test_once_more_changes_nothing(asked: Json, settings: RequestSettings) -> None:
    once = adjusted(asked, settings)
    assert adjusted(once, settings) == once


@pytest.mark.parametrize(
    ("asked", "settings", "options", "think"),
    [
        ({}, {"set": {"max_tokens": 5, "stop": "END"}}, {"num_predict": 5, "stop": ["END"]}, None),
        ({"options": {"num_predict": 9}}, {"default": {"max_tokens": 5}}, {"num_predict": 9}, None),
        ({"options": {"num_predict": 9, "mirostat": 1}}, {"strip": ["max_tokens"]}, {"mirostat": 1}, None),
        ({"options": None, "think": "high"}, {"set": {"reasoning_effort": "none"}}, {}, False),
        ({"think": True}, {"strip": ["reasoning_effort"]}, {}, None),
        ({"think": "low"}, {"set": {"grammar": "root ::= x", "seed": 1}}, {"seed": 1}, "low"),
    ],
)
def test_a_body_for_a_daemon(asked: Json, settings: Json, options: Json, think: object) -> None:
    body = json.dumps({"model": "m", **asked}).encode()[:-1] + b',"context":[1, 2]}'
    changed = set_in_ollama_body(fields_of(body), RequestSettings(**settings))
    assert bytes(changed["context"]) == b"[1, 2]"
    assert json.loads(bytes(changed["options"])) == options
    assert (json.loads(bytes(changed["think"])) if "think" in changed else None) == think


def test_other_fields_keep_their_bytes() -> None:
    body = b'{"model":"m","messages":[ {"content":"\\u00e4"} ],"x":1e2,"seed":5,"reasoning_effort":"low"}'
    changed = set_in_body(fields_of(body), RequestSettings(set={"seed": 1}))
    assert {name: bytes(value) for name, value in changed.items()} == {
        "model": b'"m"',
        "messages": b'[ {"content":"\\u00e4"} ]',
        "x": b"1e2",
        "seed": b"1",
        "reasoning_effort": b'"low"',
    }
