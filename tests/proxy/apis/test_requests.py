"""What is checked of a body, and the fields that the gateway sets."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.chat import Chat, Message
from proxy.apis.openai.chat_body import ChatRequest
from proxy.apis.requests import fields_of, parse_body, with_fields, without_lines_in
from proxy.errors import ApiError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(st.dictionaries(st.text(), VALUES, max_size=5))
def test_other_fields_keep_their_bytes(body: dict[str, object]) -> None:
    changed = with_fields(fields_of(json.dumps(body).encode()), {"stream": b"true"})
    assert json.loads(changed) == {**body, "stream": True}


@pytest.mark.parametrize(
    "value", ["1e400", "123456789012345678901234567890", "0.10000000000000000001", '"\\u0000"']
)
def test_values_that_no_parser_would_keep(value: str) -> None:
    body = f'{{"model":"a","x":{value},"y":[{value}]}}'.encode()
    raw = msgspec.json.decode(with_fields(fields_of(body), {"stream": b"true"}), type=dict[str, msgspec.Raw])
    assert bytes(raw["x"]).decode() == value
    assert bytes(raw["y"]).decode() == f"[{value}]"


def test_what_is_typed_is_typed_loosely() -> None:
    messages = b'[{"role":"user","content":[{"type":"image_url"}]}]'
    body = b'{"model":"a","messages":' + messages + b',"max_tokens":5.0,"stop":null}'
    parsed = parse_body(body, ChatRequest)
    assert (parsed.model, parsed.stream, parsed.max_tokens) == ("a", None, 5)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"messages":[]}', "model"),
        (b'{"model":"a","messages":[],"tools":{}}', "tools"),
        (b'{"model":"a","messages":[{"role":"user"},3]}', "messages[1]"),
        (b"[1]", None),
    ],
)
def test_the_faulty_field_is_named(body: bytes, param: str | None) -> None:
    with pytest.raises(ApiError) as caught:
        parse_body(body, ChatRequest)
    assert (caught.value.status, caught.value.param) == (400, param)


def test_taking_them_out_of_a_history() -> None:
    def chat(*reasonings: str) -> Chat:
        return Chat(model="m", messages=[Message("assistant", "x", reasoning) for reasoning in reasonings])

    plain = chat("", "Hm.")
    assert without_lines_in(plain) is plain
    assert without_lines_in(chat("[gateway] a: loading\n", "[gateway] a: loading\nHm.")) == plain
