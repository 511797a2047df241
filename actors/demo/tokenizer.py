"""A byte-level BPE tokenizer, trained when it is created: on the corpus's text and on common words."""

import heapq
import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
WRITTEN = ("<tool_call>", "</tool_call>", "<think>", "</think>")
"""Special tokens that are part of the written text."""

Word = tuple[str, ...]
Pair = tuple[str, str]

_WORDS = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+")
"""GPT-2's division of ASCII text into words. Pairs are merged only inside words."""


class Tokenizer:
    """The tokens, in the order of their ids, and the merges that create them."""

    def __init__(self, text: str, markers: Iterable[str] = ()) -> None:
        self.control = (*CONTROL, *markers)
        self.special = (*WRITTEN, *self.control)
        self.merges = _train(Counter(_letters(word) for word in _WORDS.findall(text)))
        self._rank = {pair: rank for rank, pair in enumerate(self.merges)}
        self.tokens = [*_LETTERS, *(left + right for left, right in self.merges), *self.special]
        self.ids = {token: index for index, token in enumerate(self.tokens)}

    def id_of(self, text: str) -> int:
        """Return the id of a text that is one token. Raises `KeyError` if it is not."""
        return self.ids[text if text in self.special else letters(text)]

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, which may contain special tokens."""
        ids: list[int] = []
        for part in re.split("(" + "|".join(map(re.escape, self.special)) + ")", text):
            if part in self.special:
                ids.append(self.ids[part])
                continue
            for found in _WORDS.findall(part):
                ids += [self.ids[token] for token in self._merged(_letters(found))]
        return ids

    def _merged(self, word: Word) -> Word:
        while known := [pair for pair in itertools.pairwise(word) if pair in self._rank]:
            word = _merge(word, min(known, key=self._rank.__getitem__))
        return word


def _byte_letters() -> list[str]:
    """Return GPT-2's letters for the 256 bytes. Printable bytes are their own letters."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in printable}
    others = [byte for byte in range(256) if byte not in letters]
    letters |= {byte: chr(256 + rank) for rank, byte in enumerate(others)}
    return [letters[byte] for byte in range(256)]


_LETTERS = _byte_letters()


def letters(text: str) -> str:
    """Return a text as tokens spell it, in GPT-2's letters."""
    return text if text in WRITTEN else "".join(_letters(text))


def _letters(word: str) -> Word:
    return tuple(_LETTERS[byte] for byte in word.encode())


def _merge(word: Word, pair: Pair) -> Word:
    merged: list[str] = []
    position = 0
    while position < len(word):
        if word[position : position + 2] == pair:
            merged.append(word[position] + word[position + 1])
            position += 2
        else:
            merged.append(word[position])
            position += 1
    return tuple(merged)


def _train(counts: Counter[Word]) -> list[Pair]:
    """Merge the most frequent pair, again and again, until each word is one token."""
    words = list(counts.items())
    frequency: Counter[Pair] = Counter()
    places: defaultdict[Pair, set[int]] = defaultdict(set)
    for index, (word, count) in enumerate(words):
        for pair in itertools.pairwise(word):
            frequency[pair] += count
            places[pair].add(index)
    queue = [(-count, pair) for pair, count in frequency.items()]
    heapq.heapify(queue)
    merges: list[Pair] = []
    while queue:
        count, best = heapq.heappop(queue)
        if frequency[best] != -count or not count:  # an outdated entry: the pair was merged or counted again
            continue
        merges.append(best)
        changed: set[Pair] = set()
        for index in places.pop(best):
            word, times = words[index]
            merged = _merge(word, best)
            for pair in itertools.pairwise(word):
                frequency[pair] -= times
                changed.add(pair)
            for pair in itertools.pairwise(merged):
                frequency[pair] += times
                places[pair].add(index)
                changed.add(pair)
            words[index] = (merged, times)
        for pair in sorted(changed):
            heapq.heappush(queue, (-frequency[pair], pair))
    return merges
