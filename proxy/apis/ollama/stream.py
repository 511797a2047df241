"""Finds the end of an Ollama daemon's stream, and assembles the whole answer from it."""

from typing import Any

from proxy.apis.answer_json import read_object
from proxy.apis.assemble import StreamedError, UnfinishedError
from proxy.apis.fields import Json
from proxy.apis.ollama.repetition import Repetition, finished, missing_line, piece_of
from proxy.apis.ollama.server_errors import from_error
from proxy.apis.stream_end import StreamEnd
from proxy.wire.sse import ServerSentEvent

STREAM_END = StreamEnd(
    "its last line",
    lambda event: event.done is True,
    failure=from_error,
    lines=True,
    is_answer=lambda answer: answer.done is True,
    missing=missing_line,
)


class LineAssembler:
    """Assembles an answer from Ollama's lines: texts are joined, for other fields the last line counts."""

    def __init__(self) -> None:
        self._last: Json = {}
        self._texts: dict[str, list[str]] = {}
        self._calls: list[Any] = []
        self._logprobs: list[Any] = []
        self._repetition = Repetition()

    def feed(self, event: ServerSentEvent) -> None:
        """Add the next line. Raises `StreamedError` for an error."""
        line = read_object(event.data)
        if "error" in line:
            raise StreamedError({"message": str(line["error"])})
        self._repetition.feed(piece_of(line))
        said = line.get("message") or line
        for name in ("content", "response", "thinking"):
            if text := said.pop(name, ""):
                self._texts.setdefault(name, []).append(text)
        self._calls += said.pop("tool_calls", None) or []
        self._logprobs += line.pop("logprobs", None) or []
        self._last.update(line)

    def result(self) -> Json:
        """Return the whole answer. Raises `UnfinishedError`."""
        whole = self._last
        if whole.get("done") is not True and self._repetition.is_end:
            whole = finished(whole)
        if whole.get("done") is not True:
            raise UnfinishedError("its last line")
        said = whole.get("message", whole)
        said["content" if "message" in whole else "response"] = ""
        said.update({name: "".join(parts) for name, parts in self._texts.items()})
        if self._calls:
            said["tool_calls"] = self._calls
        if self._logprobs:
            whole["logprobs"] = self._logprobs
        return whole
