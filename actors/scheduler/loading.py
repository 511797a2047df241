"""What a waiting user reads in the reasoning of a streamed answer: each line once. Pure.

The lines are the gateway's, not the model's: only clients get them, and they are taken out of
histories that clients send back.
"""

import re

from actors.progress import Progress
from actors.scheduler.lifecycle import State
from actors.scheduler.model_states import Outlook

MARK = "[gateway] "
"""The beginning of each line, by which it is found again."""
STEP = 0.1
"""Share of a download or a load after which another line is worth reading, at the earliest after `PAUSE`."""
PAUSE = 5.0
"""Seconds between two lines about the same download or load."""

_LINES = re.compile(r"(?:\[gateway\] [^\n]*\n)+")


class LoadingLines:
    """Makes the lines for one request."""

    def __init__(self) -> None:
        self._stage: tuple[str, int] | None = None
        self._share = 0.0
        self._at = 0.0

    def next(self, outlook: Outlook, progress: Progress | None, now: float) -> str | None:
        """Return a line, if there is any news. `now`: monotonic seconds."""
        doing, share, left = _describe(outlook, progress)
        stage = (doing, outlook.position)
        is_further = share is not None and share >= self._share + STEP and now >= self._at + PAUSE
        if stage == self._stage and not is_further:
            return None
        self._stage, self._share, self._at = stage, share or 0.0, now
        parts = [doing]
        if share is not None:
            parts.append(f"{100 * share:.0f} %")
        if outlook.position > 1:
            parts.append(f"{ordinal(outlook.position)} in the queue")
            left = outlook.seconds
        if left is not None and left >= 1:
            parts.append(f"about {left:.0f} s")
        return f"{MARK}{outlook.model}: {', '.join(parts)}\n".replace("\r", " ")


def _describe(outlook: Outlook, progress: Progress | None) -> tuple[str, float | None, float | None]:
    """Return what a request waits for, its share that is done, and the seconds left; None if unknown."""
    if progress is not None:
        return (
            "downloading",
            progress.have / progress.total if progress.total else None,
            progress.seconds_left,
        )
    if outlook.state is State.STARTING and outlook.load_seconds:
        share = min(0.99, (outlook.loading or 0.0) / outlook.load_seconds)
        return "loading", share, outlook.load_seconds * (1 - share)
    if outlook.state is State.READY:
        return "its slots are busy", None, outlook.seconds
    return (outlook.why or _STATES.get(outlook.state, str(outlook.state))).replace("\n", " "), None, None


_STATES = {
    State.STOPPED: "waiting for memory",
    State.FETCHING: "looking for its files",
    State.FETCHED: "waiting for memory",
    State.STARTING: "loading",
    State.DRAINING: "making room for another model",
    State.STOPPING: "stopping",
    State.FAILED: "starting again",
}


def ordinal(number: int) -> str:
    """Write a number as a place in a queue: 1st, 2nd, 3rd, 11th."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def without_lines(text: str) -> str:
    """Return a reasoning without the gateway's lines, which are its first."""
    found = _LINES.match(text) if text.startswith(MARK) else None
    return text if found is None else text[found.end() :]
