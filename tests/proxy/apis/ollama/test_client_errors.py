"""Errors in Ollama's words."""

import pytest

from agents.events import AnswerFailed
from proxy.apis.ollama.client_errors import BUSY, ollama_error


@pytest.mark.parametrize(
    ("failure", "status", "text"),
    [
        (AnswerFailed(404, "?", code="model_not_found"), 404, 'model "m" not found, try pulling it first'),
        (AnswerFailed(404, "no such adapter", code="not_found"), 404, "no such adapter"),
        (AnswerFailed(429, "full", code="queue_full"), 503, BUSY),
        (AnswerFailed(499, "left"), 499, "request canceled"),
        (AnswerFailed(503, "no turn in 60 s", code="queue_timeout"), 503, "no turn in 60 s"),
        (AnswerFailed(400, "x"), 400, "x"),
        (
            AnswerFailed(501, "Infill is not supported by this model: prefix token is missing."),
            400,
            '"m" does not support insert',
        ),
    ],
)
def test_to_ollama(failure: AnswerFailed, status: int, text: str) -> None:
    assert ollama_error(failure.status, failure.message, failure.code, "m") == (status, text)
