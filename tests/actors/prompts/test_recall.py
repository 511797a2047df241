"""The request that brings a prompt back into a slot."""

import json

import pytest

from actors.prompts.chain import chain_of
from actors.prompts.recall import known_part, recalling


def test_the_prompt_is_the_same_and_the_answer_one_token() -> None:
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "h\u00e4llo"}],
        "tools": [{"type": "function"}],
        "chat_template_kwargs": {"enable_thinking": True},
        "max_completion_tokens": 100,
        "n_predict": 5,
        "stream": False,
        "temperature": 0.5,
        "id_slot": 3,
    }
    made = recalling(json.dumps(body).encode())
    assert chain_of(made) == chain_of(json.dumps(body).encode())
    asked = json.loads(made)
    assert asked["max_tokens"] == 1
    assert asked["stream"] is asked["return_progress"] is True
    assert not set(asked) & {"max_completion_tokens", "n_predict", "id_slot"}


@pytest.mark.parametrize(
    ("line", "part"),
    [
        (b'data: {"choices":[],"prompt_progress":{"total":200,"cache":150,"processed":150}}\n', 0.75),
        (b'data: {"choices":[],"prompt_progress":{"total":0,"cache":0}}\n', 0.0),
        (b'data: {"choices":[{"delta":{"content":"x"}}]}\n', None),
        (b'data: {"prompt_progress": 5}\n', None),
        (b'data: {"prompt_progress"\n', None),
        (b": a comment\n", None),
        (b"data: [DONE]\n", None),
        (b"\n", None),
    ],
)
def test_what_a_line_says(line: bytes, part: float | None) -> None:
    assert known_part(line) == part
