"""Writes an error in Ollama's form: as a body before the answer begins, and as a line in a stream."""

import msgspec

from proxy.apis.fields import Json
from proxy.apis.interface import Dialect
from proxy.errors import ApiError

BUSY = "server busy, please try again.  maximum pending requests exceeded"

TOO_LONG_TEXT = "the input length exceeds the context length"


def ollama_error(status: int, message: str, code: str | None, model: str) -> tuple[int, str]:
    """Return the status and the text that Ollama gives for an error. `model` is the requested name."""
    if status == 404 and code in (None, "model_not_found"):
        return 404, f'model "{model[:200]}" not found, try pulling it first'
    if message.startswith("Infill is not supported"):  # llama.cpp's words
        return 400, f'"{model[:200]}" does not support insert'
    if status == 429:
        return 503, BUSY
    if status == 499:
        return 499, "request canceled"
    return status, message


def _reword(error: ApiError, model: str) -> ApiError:
    status, message = ollama_error(error.status, error.message, error.code, model)
    return ApiError(status, message, code=error.code, retry_after=error.retry_after)


def _body(error: ApiError, _request_id: str) -> Json:
    return {"error": error.message}


def _frame(error: ApiError, _request_id: str) -> bytes:
    return msgspec.json.encode({"error": error.message}) + b"\n"


OLLAMA = Dialect("ollama", _body, _frame, reword=_reword)
