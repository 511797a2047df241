"""Finds patterns in a text that arrives in pieces. The result does not depend on how the text is cut.

A character is released as soon as no match can begin at it, whatever follows. The package `regex` can say
whether a text may be the beginning of a match ("partial"), but it takes the present end for the end of the
text, where `\\b`, `$` and similar anchors may fail although they hold later. So each pattern has a second
form without such anchors, its *foresight*: where the foresight cannot match or begin to match, the pattern
cannot either. Patterns with negative look-arounds, conditionals or possessive parts have no foresight; their
text is held back.

A match is searched in the `longest` characters from its beginning, and decided when these have arrived. That
limits memory and time, and makes the decision depend on the text alone.
"""

from collections.abc import Callable, Iterator, Sequence

import msgspec
import regex

TIMEOUT = 0.1
"""Seconds for one search with one pattern; a slower one raises `TimeoutError`."""

CONTEXT = 1024
"""Characters before the present position that are kept for look-behinds."""

SLICE = 64
"""Characters that are looked at together: each look goes to the end of what is there, so a long piece at once
would cost the square of its length."""

# A word boundary at the very beginning is before an existing character, so it does no harm.
_TOKENS = regex.compile(r"\A\\b|(?P<anchor>\\[bBAZGmM]|[$^])|\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.", regex.DOTALL)
_UNFORESEEABLE = regex.compile(r"\(\?(?:!|<!|>|\(|&|P>|R|\d)|[+*?}]\+|\\[KXR]|\(\*")
_ANYTHING = regex.compile("")


class Found(msgspec.Struct, frozen=True):
    """A match of pattern number `index`."""

    index: int
    text: str


def compile_pattern(pattern: str) -> "regex.Pattern[str]":
    """Compile a pattern. Raises `ValueError` if it is invalid or matches the empty text."""
    try:
        compiled = regex.compile(pattern)
    except regex.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
    if compiled.fullmatch(""):
        raise ValueError(f"{pattern!r} matches an empty text, and so everywhere")
    return compiled


def _foresight(pattern: str) -> "regex.Pattern[str]":
    if _UNFORESEEABLE.search(pattern):
        return _ANYTHING
    loose = _TOKENS.sub(lambda token: "" if token["anchor"] else token[0], pattern)
    try:
        return regex.compile(loose)
    except regex.error:  # without its anchors it may be invalid
        return _ANYTHING


class Scanner:
    """Scans one text with several patterns. At the same position the earlier pattern wins.

    `tick` is called before each search and may raise an exception, to limit the sum of many short searches.
    """

    def __init__(
        self,
        patterns: Sequence["regex.Pattern[str]"],
        longest: int,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        self._patterns = patterns
        self._foresights = [_foresight(pattern.pattern) for pattern in patterns]
        self._longest = longest
        self._tick = tick
        self._text = ""
        self._place = 0

    def feed(self, piece: str, *, last: bool = False) -> Iterator[str | Found]:
        """Add a piece; return in order the text and the matches that can be released."""
        for begin in range(0, len(piece), SLICE):
            yield from self._feed(piece[begin : begin + SLICE])
        if last:
            yield from self._feed("", last=True)

    def _feed(self, piece: str, *, last: bool = False) -> Iterator[str | Found]:
        self._text += piece
        clear_from = self._place
        while (self._skip(last=last)) and (last or not self._is_open()):
            if (found := self._match()) is None:
                self._place += 1
                continue
            if clear_from < self._place:
                yield self._text[clear_from : self._place]
            self._place += len(found.text)
            clear_from = self._place
            yield found
        if clear_from < self._place:
            yield self._text[clear_from : self._place]
        cut = max(0, self._place - CONTEXT)
        self._text = self._text[cut:]
        self._place -= cut

    def _skip(self, *, last: bool) -> bool:
        """Move to the next position at which a match may begin; False if there is none."""
        self._tick()
        size = len(self._text)
        if self._place < size and not any(map(self._foresees, self._foresights)):
            self._place = size
        # Where the window is complete there are no partial matches, so the next whole match counts.
        decided = size if last else size - self._longest
        if self._place < decided:
            matches = [
                foresight.search(self._text, self._place, timeout=TIMEOUT) for foresight in self._foresights
            ]
            self._place = min(decided, *(match.start() if match else decided for match in matches))
        return self._place < size

    def _foresees(self, foresight: "regex.Pattern[str]") -> bool:
        """Whether a match may begin in the present text, not counting its very end."""
        found = foresight.search(self._text, self._place, partial=True, timeout=TIMEOUT)
        return found is not None and found.start() < len(self._text)

    def _is_open(self) -> bool:
        """Whether later text could change the decision at the present position."""
        if len(self._text) - self._place >= self._longest:
            return False
        return any(
            foresight.match(self._text, self._place, partial=True, timeout=TIMEOUT)
            for foresight in self._foresights
        )

    def _match(self) -> Found | None:
        end = min(len(self._text), self._place + self._longest)
        for index, pattern in enumerate(self._patterns):
            found = pattern.match(self._text, self._place, end, timeout=TIMEOUT)
            if found is not None and found[0]:
                return Found(index, found[0])
        return None
