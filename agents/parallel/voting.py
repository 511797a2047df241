"""Compares answers and counts votes. Pure."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

import msgspec
import regex

from actors.errors import UNREADABLE
from agents.events import Answer

_MARKUP = re.compile(r"[*_`#>]+")
_SPACE = re.compile(r"\s+")
_ENDS = " .!?,;:\"'()[]$"

TIMEOUT = 0.2
"""Seconds that the operator's pattern may take for one answer, because all clients wait."""


def normalised(text: str) -> str:
    """Return the text without case, markup, extra space, and punctuation at its ends."""
    plain = _MARKUP.sub("", unicodedata.normalize("NFKC", text)).casefold()
    return _SPACE.sub(" ", plain).strip(_ENDS)


def ballot(answer: Answer, pattern: "regex.Pattern[str] | None" = None) -> str:
    """Return an answer's vote: its tool calls if it has some, otherwise its text.

    With a pattern, the vote is the first group of its last match, or the whole match without groups. If it
    does not match in time, the whole text counts.
    """
    if answer.tool_calls:
        return repr([(call.name, _canonical(call.arguments)) for call in answer.tool_calls])
    last = None
    if pattern is not None:
        try:
            for last in pattern.finditer(answer.text, timeout=TIMEOUT):  # noqa: B007 (the last one is wanted)
                pass
        except TimeoutError:
            last = None
    if last is None:
        return normalised(answer.text)
    return normalised(last[1] if last.re.groups and last[1] is not None else last[0])


def _canonical(arguments: str) -> str:
    try:
        value = msgspec.json.decode(arguments or "{}")
    except UNREADABLE:
        return arguments
    return msgspec.json.encode(value, order="deterministic").decode()


def winner(ballots: Sequence[str]) -> tuple[int, int]:
    """Return the place of the winning vote, and the number of equal votes. Among equals the earliest wins."""
    (choice, votes) = Counter(ballots).most_common(1)[0]
    return ballots.index(choice), votes


def is_decided(ballots: Sequence[str], expected: int) -> bool:
    """Whether the missing ones of `count` votes can no longer change the winner."""
    counts = [votes for _, votes in Counter(ballots).most_common(2)]
    return bool(counts) and counts[0] > (counts[1] if len(counts) > 1 else 0) + expected - len(ballots)
