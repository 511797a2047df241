"""Finds the end of a stream of llama.cpp's own completions, and assembles the whole answer from it."""

from typing import Any

from proxy.apis.assemble import UnfinishedError, load
from proxy.apis.fields import Json
from proxy.apis.openai.server_errors import from_error
from proxy.apis.stream_end import StreamEnd
from proxy.wire.sse import ServerSentEvent

STREAM_END = StreamEnd("its last event", lambda event: event.stop is True, failure=from_error)


class NativeAssembler:
    """Assembles llama.cpp's own answer from its completion events (`/completion`, `/infill`)."""

    def __init__(self, *, return_tokens: bool = False) -> None:
        self._return_tokens = return_tokens
        self._content: list[str] = []
        self._tokens: list[int] = []
        self._probabilities: list[Any] = []
        self._final: Json = {}

    def feed(self, event: ServerSentEvent) -> None:
        """Add the next event. The last one has all fields except the text. Raises `StreamedError`."""
        if (chunk := load(event)) is None or "prompt_progress" in chunk:
            return
        self._content.append(chunk.get("content", ""))
        self._tokens.extend(chunk.get("tokens", ()))
        self._probabilities.extend(chunk.pop("completion_probabilities", ()))
        if chunk.get("stop"):
            self._final = chunk

    def result(self) -> Json:
        """Return the whole answer. Raises `UnfinishedError`."""
        if not self._final:
            raise UnfinishedError("its last event")
        answer = {**self._final, "content": "".join(self._content)}
        answer["tokens"] = self._tokens if self._return_tokens else []
        if self._probabilities:
            answer["completion_probabilities"] = self._probabilities
        if isinstance(settings := answer.get("generation_settings"), dict):
            settings["stream"] = False
        return answer
