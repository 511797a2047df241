"""Finds patterns in a text that comes in pieces. However it is cut, what is found and let go is the same.

A character is let go as soon as no match can begin at it, whatever follows. To know that is not easy: what
does not match yet may match later. The package `regex` can tell whether a text is the beginning of a match
("partial"), but it takes the end of what is there for the end of the text, where `\\b`, `$` and the like may
fail, and hold later. So each pattern has a second form for that one question, its foresight, without such
anchors: where that cannot match or begin to, the pattern cannot either. Patterns with negative look-arounds,
conditionals or possessive parts have none, and are waited for.

A match is looked for in the `longest` characters from its beginning, and decided upon when these are there.
That keeps memory and time bounded, and makes the decision a matter of the text alone.
"""

from collections.abc import Callable, Iterator, Sequence

import msgspec
import regex

TIMEOUT = 0.1
"""Seconds for one look at one pattern; a slower one raises `TimeoutError`."""

CONTEXT = 1024
"""Characters before the present place that look-behinds can see for certain."""

SLICE = 64
"""Characters that are looked at together: each look goes to the end of what is there, so a long piece at once
would cost the square of its length."""

# A word's border at the very beginning lies before a character that is there, so it does no harm.
_TOKENS = regex.compile(r"\A\\b|(?P<anchor>\\[bBAZGmM]|[$^])|\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.", regex.DOTALL)
_UNFORESEEABLE = regex.compile(r"\(\?(?:!|<!|>|\(|&|P>|R|\d)|[+*?}]\+|\\[KXR]|\(\*")
_ANYTHING = regex.compile("")


class Found(msgspec.Struct, frozen=True):
    """A match of the pattern number `index`."""

    index: int
    text: str


def compile_pattern(pattern: str) -> "regex.Pattern[str]":
    """Raises `ValueError` for what is no regular expression, or matches even nothing at all."""
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
    except regex.error:  # without its anchors it may be none
        return _ANYTHING


class Scanner:
    """One text and some patterns, of which an earlier one wins at the same place.

    `tick` is called before each look, and may raise what ends it: many short looks are a long one too.
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
        """What can be let go with this piece, in order: text without matches, and matches."""
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
        """Go on to the next place at which something could be; False if there is none any more."""
        self._tick()
        size = len(self._text)
        if self._place < size and not any(map(self._foresees, self._foresights)):
            self._place = size
        # Where all that counts has come there are no partial matches, so the next whole one is next.
        decided = size if last else size - self._longest
        if self._place < decided:
            matches = [
                foresight.search(self._text, self._place, timeout=TIMEOUT) for foresight in self._foresights
            ]
            self._place = min(decided, *(match.start() if match else decided for match in matches))
        return self._place < size

    def _foresees(self, foresight: "regex.Pattern[str]") -> bool:
        """Whether a match may begin in what is there. At its very end every text may begin."""
        found = foresight.search(self._text, self._place, partial=True, timeout=TIMEOUT)
        return found is not None and found.start() < len(self._text)

    def _is_open(self) -> bool:
        """Whether what follows could make a difference to the present place."""
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
