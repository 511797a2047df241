"""Patterns in a text that comes in pieces."""

import time

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from agents.guard.scanner import CONTEXT, Found, Scanner, compile_pattern

PATTERNS = [
    "bad",
    r"\bbad\b",
    r"\Bad",
    "a|abc",
    "abc|a",
    "a(b{3})?",
    r"a+",
    r"a+?b",
    r"ab*",
    "a(?!b)",
    "a(?=bc)",
    "(?<=b)a",
    "(?<!b)a",
    r"(?s)a.*c",
    r"(ab|c)\1",
    "(?i)BAD",
    "a$",
    "^a",
    r"a\Z",
    r"\Aa",
    r"a-\b",
    "(?>ab|a)c",
    r"a++",
    "[ab]{2,3}c?",
    r"a-\bb",
    "(?m)^b$",
    "a\\$b",
    r"[$^b]a",
    r"(?:a\b|ab)c?",
]
LONGEST = 6


def scanned(patterns: list[str], pieces: list[str], longest: int = LONGEST) -> list[tuple[str, str]]:
    """What is let go in all: ("clear", text) and ("0", match), neighbours of a kind in one."""
    scanner = Scanner([compile_pattern(pattern) for pattern in patterns], longest)
    parts: list[tuple[str, str]] = []
    for number, piece in enumerate(pieces):
        for part in scanner.feed(piece, last=number == len(pieces) - 1):
            if isinstance(part, Found):
                parts.append((str(part.index), part.text))
            elif parts and parts[-1][0] == "clear":
                parts[-1] = ("clear", parts[-1][1] + part)
            else:
                parts.append(("clear", part))
    return parts


def by_definition(patterns: list[str], text: str, longest: int = LONGEST) -> list[tuple[str, str]]:
    """The same of the whole text, a character at a time."""
    compiled = [regex.compile(pattern) for pattern in patterns]
    parts: list[tuple[str, str]] = []
    place = 0
    while place < len(text):
        end = min(len(text), place + longest)
        found = next(
            (
                (str(index), match[0])
                for index, pattern in enumerate(compiled)
                if (match := pattern.match(text, place, end)) and match[0]
            ),
            None,
        )
        if found is not None:
            parts.append(found)
            place += len(found[1])
            continue
        if parts and parts[-1][0] == "clear":
            parts[-1] = ("clear", parts[-1][1] + text[place])
        else:
            parts.append(("clear", text[place]))
        place += 1
    return parts


TEXTS = st.text(alphabet="abcd- \nBD$", max_size=24)


def cut(text: str, places: list[int]) -> list[str]:
    """The text in pieces."""
    ends = sorted(place % (len(text) + 1) for place in places)
    return [text[begin:end] for begin, end in zip([0, *ends], [*ends, len(text)], strict=True)]


@given(st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=3), TEXTS, st.lists(st.integers(0, 24)))
def test_any_cut_gives_the_same(patterns: list[str], text: str, places: list[int]) -> None:
    assert scanned(patterns, cut(text, places)) == by_definition(patterns, text)


@given(st.sampled_from(PATTERNS), TEXTS)
def test_character_by_character(pattern: str, text: str) -> None:
    assert scanned([pattern], [*text, ""]) == by_definition([pattern], text)


@pytest.mark.parametrize(
    ("pattern", "text", "let_go"),
    [
        ("secret", "my s", "my "),
        ("secret", "my sec", "my "),
        ("secret", "my sex", "my sex"),
        ("secret", "nothing to hide", "nothing to hide"),
        (r"\bsecret\b", "a secret", "a "),
        (r"\bsecret\b", "asecre", "asecre"),
        (r"sk-[a-z0-9]+", "key sk-12", "key "),
        (r"sk-[a-z0-9]+", "key sk.", "key sk."),
        (r"(?!x)secret", "my text", ""),
    ],
)
def test_no_more_is_held_back_than_it_must(pattern: str, text: str, let_go: str) -> None:
    assert "".join(map(str, Scanner([compile_pattern(pattern)], 64).feed(text))) == let_go


def test_nothing_is_held_longer_than_the_longest() -> None:
    scanner = Scanner([compile_pattern("(?s)a.*z")], 10)
    assert "".join(map(str, scanner.feed("a" + "b" * 30))) == "a" + "b" * 30
    assert "".join(map(str, scanner.feed("ab" * 5))) == "a" + "b", "the second a is still within reach"


def test_memory_is_bounded() -> None:
    scanner = Scanner([compile_pattern("secret")], 64)
    for _ in range(1000):
        assert list(scanner.feed("harmless ")) == ["harmless "]
    assert len(scanner._text) <= CONTEXT + 64


PROSE = "The quick brown fox, 12 of them, jumps over lazy alicia at x.y. "


@pytest.mark.parametrize(
    ("text", "patterns"),
    [
        (
            (PROSE * 600)[:32_000],
            [
                r"sk-[A-Za-z0-9]{20,}",
                r"\b\d{3}-\d{2}-\d{4}\b",
                r"(?i)password\s*[:=]\s*\S+",
                r"[A-Z]{2}\d{2}(?: ?\d{4}){4}",
                r"[\w.]+@[\w.]+\.com",
            ],
        ),
        ("a" * 3000, [r"\bclassified\b", "a+b", r"\d{4}", "(?!x)secret", "(?i)alice"]),
    ],
    ids=["prose", "a match in the making everywhere"],
)
@pytest.mark.parametrize("last", [False, True])
def test_a_long_piece_costs_no_more_than_its_length(text: str, patterns: list[str], last: bool) -> None:
    scanner = Scanner([compile_pattern(pattern) for pattern in patterns], 256)
    begun = time.process_time()
    let_go = list(scanner.feed(text, last=last))
    assert time.process_time() - begun < 5, "the second took 20 s as one piece, the first was never done"
    assert not any(isinstance(part, Found) for part in let_go)


@pytest.mark.parametrize("pattern", ["(", "[a", "a*", ""])
def test_patterns_that_are_none(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"no regular expression|matches an empty text"):
        compile_pattern(pattern)


def test_a_pattern_that_takes_for_ever_is_an_error() -> None:
    with pytest.raises(TimeoutError):
        list(Scanner([compile_pattern(r"(a|a)*(a|a)*(a|a)*b\1")], 5000).feed("a" * 4000 + "c", last=True))
