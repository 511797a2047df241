"""Completions: probabilities in the form that OpenAI's clients read."""

import json
from typing import Any

import pytest

from agents.events import Answer, AnswerStarted, Done, Event, Finish, Logprobs, Text
from proxy.apis.openai.completion import Encoder, encode_answer

A = {
    "token": "A",
    "logprob": -0.5,
    "top_logprobs": [{"token": "A", "logprob": -0.5}, {"token": "B", "logprob": -1.0}],
}
BC = {"token": "bc", "logprob": -0.1, "top_logprobs": []}


def test_probabilities_of_a_stream() -> None:
    encoder = Encoder(model="m")
    events: list[Event] = [
        AnswerStarted("x", "m", 1),
        Logprobs([A]),
        Text("A"),
        Text("-"),
        Logprobs([BC]),
        Text("bc"),
    ]
    written = b"".join(encoder.encode(event, 0.0) for event in [*events, Finish("stop"), Done()])
    chunks = [json.loads(line[6:]) for line in written.splitlines() if line.startswith(b"data: {")]
    assert [chunk["choices"][0]["logprobs"] for chunk in chunks] == [
        {
            "tokens": ["A"],
            "token_logprobs": [-0.5],
            "top_logprobs": [{"A": -0.5, "B": -1.0}],
            "text_offset": [0],
        },
        None,
        {"tokens": ["bc"], "token_logprobs": [-0.1], "top_logprobs": [{}], "text_offset": [2]},
        None,
    ]


def test_probabilities_of_a_whole_answer() -> None:
    (choice,) = encode_answer(Answer(text="Abc", logprobs=[A, BC]), model="m")["choices"]
    assert choice["logprobs"]["tokens"] == ["A", "bc"]
    assert choice["logprobs"]["text_offset"] == [0, 1]


@pytest.mark.parametrize(
    "odd", [5, None, {}, {"top_logprobs": 5}, {"top_logprobs": [5]}, {"token": 5, "logprob": "x"}]
)
def test_whatever_a_server_sends(odd: Any) -> None:
    assert encode_answer(Answer(text="x", logprobs=[odd]), model="m")["choices"][0]["logprobs"]
