"""Errors of an Ollama daemon: a text, whose words tell what it means."""

from typing import Any

from agents.events import AnswerFailed
from proxy.apis.answer_json import UnreadableError, read_object
from proxy.apis.ollama.client_errors import BUSY
from proxy.apis.openai import server_errors as openai_failures
from proxy.errors import default_kind


def from_body(body: bytes, status: int = 500) -> AnswerFailed:
    """A failure of Ollama's error body, or of the line that ends a broken stream."""
    try:
        error = read_object(body).get("error")
    except UnreadableError:
        error = body[:500].decode("utf-8", "replace").strip()
    return from_error(error, status)


def from_error(error: Any, status: int = 500) -> AnswerFailed:
    """A failure of the decoded value of `error`."""
    if isinstance(error, dict):
        return openai_failures.from_error(error, status)
    message = str(error or "Ollama reported an error")
    code: str | None = None
    if status == 404 and "not found" in message:
        code = "model_not_found"
    elif message == BUSY:
        status, code = 429, "queue_full"
    elif "exceeds the context length" in message or "exceeds maximum context length" in message:
        status, code = 400, "context_length_exceeded"
    elif "does not support" in message:
        code = "not_supported"
    return AnswerFailed(
        status, message, default_kind(status), code, "model" if code == "model_not_found" else None
    )
