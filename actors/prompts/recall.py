"""The request with which a server takes a prompt from its own cache in host memory back into a slot. Pure."""

from typing import Any

import msgspec

_ANSWER_FIELDS = (
    "max_completion_tokens",
    "n_predict",
    "stream_options",
    "response_format",
    "logprobs",
    "id_slot",
)
"""Fields of a request that are about its answer, or its place."""

_read = msgspec.json.Decoder(dict[str, msgspec.Raw])


def recalling(body: bytes) -> bytes:
    """Return a chat request with the prompt of this one, and an answer of one token.

    With progress events it is known at once whether the server has the prompt.
    """
    fields: dict[str, Any] = {
        name: value for name, value in _read.decode(body).items() if name not in _ANSWER_FIELDS
    }
    return msgspec.json.encode({**fields, "max_tokens": 1, "stream": True, "return_progress": True})


class _Progress(msgspec.Struct):
    total: int = 0
    cache: int = 0


class _Event(msgspec.Struct):
    prompt_progress: _Progress | None = None


_event = msgspec.json.Decoder(_Event)


def known_part(line: bytes) -> float | None:
    """Return how much of the prompt the server has, from 0 to 1, if this line of its answer says so."""
    if not line.startswith(b"data: {") or b'"prompt_progress"' not in line:
        return None
    try:
        progress = _event.decode(line.removeprefix(b"data: ")).prompt_progress
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return None if progress is None else progress.cache / max(1, progress.total)
