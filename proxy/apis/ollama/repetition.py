"""Finds answers that an Ollama daemon ended because the model repeated itself, without a last line."""

from collections.abc import Iterable

from proxy.apis.answer_json import UnreadableError, read_object
from proxy.apis.fields import Json, encode

MOST = 30
"""Number of repetitions of one piece, white space around it ignored, after which a daemon ends an answer."""


class Repetition:
    """Counts how often in a row the newest piece of an answer was repeated."""

    __slots__ = ("_count", "_piece")

    def __init__(self) -> None:
        self._piece = ""
        self._count = 0

    def feed(self, piece: str) -> None:
        """Count the next piece."""
        piece = piece.strip()
        self._count = self._count + 1 if piece == self._piece else 0
        self._piece = piece

    @property
    def is_end(self) -> bool:
        """Whether a daemon ends the answer here."""
        return self._count >= MOST


def piece_of(line: Json) -> str:
    """Return the text of a line, or else its reasoning."""
    said = line.get("message")
    said = said if isinstance(said, dict) else line
    texts = (said.get(name) for name in ("content", "response", "thinking"))
    return next((text for text in texts if text and isinstance(text, str)), "")


def finished(line: Json) -> Json:
    """Return the last line that is missing after this `line`. Its durations and counts are 0, as unknown."""
    said: Json = {"message": {"role": "assistant", "content": ""}} if "message" in line else {"response": ""}
    counters = dict.fromkeys(("total_duration", "load_duration", "prompt_eval_count", "eval_count"), 0)
    head: Json = {name: line[name] for name in ("model", "created_at") if name in line}
    return {**head, **said, "done": True, "done_reason": "stop", **counters}


def missing_line(lines: Iterable[bytes]) -> bytes:
    """Return the missing last line of an answer with these newest lines; b"" if the answer was cut off."""
    repetition, line = Repetition(), {}
    for text in lines:
        try:
            line = read_object(text)
        except UnreadableError:
            return b""
        repetition.feed(piece_of(line))
    return encode(finished(line)) + b"\n" if repetition.is_end else b""
