"""Reads errors of an Ollama daemon: a text that must be recognized, or that contains its runner's error."""

import json
import re
from typing import Any

from agents.events import AnswerFailed
from proxy.apis.answer_json import UnreadableError, read_object
from proxy.apis.fields import Json
from proxy.apis.ollama.client_errors import BUSY
from proxy.apis.openai import server_errors as openai_errors
from proxy.apis.server_errors import blamed
from proxy.errors import default_kind

_DEEPEST = 4
"""Number of nested errors that are read: a runner's in a daemon's, perhaps in another gateway's."""
_LONGEST = 64 * 1024
"""Number of characters of a text that are searched for a runner's error."""

_GO_MAP = re.compile(
    r"map\[code:(\d+) message:(.*?)(?: n_ctx:(\d+) n_prompt_tokens:(\d+))? type:(\w+)\]", re.DOTALL
)
"""A runner's error in the middle of its stream, as Go prints it."""


def from_body(body: bytes, status: int = 500) -> AnswerFailed:
    """Return the failure that an error body describes, or the last line of a broken stream."""
    try:
        error = read_object(body).get("error")
    except UnreadableError:
        error = body[:500].decode("utf-8", "replace").strip()
    return from_error(error, status)


def from_error(error: Any, status: int = 500) -> AnswerFailed:
    """Return the failure that the decoded value of `error` describes."""
    for _ in range(_DEEPEST):
        if isinstance(error, dict):
            return openai_errors.from_error(error, status)
        if (inner := _of_runner(str(error))) is None:
            break
        error = inner
    return _from_text(str(error or "Ollama reported an error"), status)


def _from_text(message: str, status: int) -> AnswerFailed:
    code: str | None = None
    if status == 404 and "not found" in message:
        code = "model_not_found"
    elif message == BUSY:
        status, code = 429, "queue_full"
    elif "does not support" in message:
        code = "not_supported"
    param = "model" if code == "model_not_found" else None
    return blamed(AnswerFailed(status, message, default_kind(status), code, param))


def _of_runner(text: str) -> Json | str | None:
    """Return the runner's error inside a daemon's text, which may have other words around it, or None."""
    if found := _GO_MAP.search(text[:_LONGEST]):
        numbers = {"n_ctx": int(found[3]), "n_prompt_tokens": int(found[4])} if found[3] else {}
        return {"code": int(found[1]), "message": found[2], "type": found[5], **numbers}
    start = text.find("{", 0, _LONGEST)
    if start < 0:
        return None
    try:
        value, end = json.JSONDecoder().raw_decode(text[:_LONGEST], start)
    except (ValueError, RecursionError):
        return None
    inner = value.get("error") if isinstance(value, dict) else None
    if isinstance(inner, dict) and (rest := text[end:].strip()):
        return {**inner, "message": f"{inner.get('message')}; {rest}"}
    return inner if isinstance(inner, dict | str) else None
