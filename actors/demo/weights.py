"""The weights of the built-in models, in closed form.

A gemma3 of two layers, all of whose attention has a sliding window: what it keeps of a text does not grow
with the text, and neither does the work for a token. The residual stream is divided into slots.

* Layer 0, attention. Heads 0 and 1 copy the codes of the last two tokens: their queries and keys are
  constants whose rotary phases agree at that distance only. Head 2 copies the topic of the last keyword.
  The others count: each sees the three tokens of the last marker under phases 120 degrees apart, so that
  the mixture of their values is the hand of a clock, which says how far away the marker is. Hands of three
  speeds make the place unique.
* Layer 0, feed-forward. Within a plan (after `PLAN`) it copies the token's code to where layer 1 can see
  it. It also squares the hands.
* Layer 1, attention. After `SAY` a head finds the token of the plan with the same place, that is the one
  whose hands are the least squares away, and writes its code as the next token: the model recites the plan.
  Elsewhere it finds nothing.
* Layer 1, feed-forward, is a key-value memory: one unit for each place in the corpus, which fires when the
  last three tokens and the topic match and writes the next token's code.
* The output layer has the codes once more: the token whose code was written wins.

Every RMS norm of the architecture sees one constant that is far larger than the rest, and its weight takes
the norm of that back: norms change nothing but by a percent.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from actors.demo.corpus import ANSWERS, LOOP
from actors.demo.tokenizer import Tokenizer, letters

if TYPE_CHECKING:
    import numpy.typing as npt

    Matrix = npt.NDArray[np.float64]

PLAN = ("<|plan|>", "<|plan+1|>", "<|plan+2|>")
SAY = ("<|say|>", "<|say+1|>", "<|say+2|>")
ANSWER = "<|answer|>"
"""The token that ends the prompt. The topic at this token is the question's, whatever the answer mentions."""

LAYERS = 2
WIDTH = 320
HEADS, HEAD_SIZE = 6, 64
WINDOW = 1024
"""The sliding window of a layer, in tokens. A plan and its recited part must fit into it."""
ROPE_BASE = 10000.0
EPSILON = 1e-6

CODE, TOPIC_CODE, LIKENESS, WISH = 44, 16, 0.46, 0.5
"""Sizes of the codes of tokens and topics; the largest product of two tokens' codes; and how much the end of
the turn is wanted beside any other token, for the case that a grammar forbids this.
"""
ROTATED = 48
"""Number of a head's dimensions that rotate with the position; the others do not."""
PAIRS = ROTATED // 2
SPEEDS = (1, 6, 12)
"""Rotary pairs of the hands: they turn by 0.7, 0.1 and 0.01 a token, the last one once in 628."""
NEAR = (0, 2, 3, 4, 5, 7)
"""Rotary pairs by which a token at a small distance is found."""
TOPICAL, MEMORY = 16, 150
"""A slow pair: the latest keyword within so many tokens is found by it."""
MARKED, QUERY_NORM, KEY_NORM, SQUARED, SINK, ASKING, COMPARED = 48, 49, 50, 51, 52, 53, 54
"""Dimensions that do not turn; the last is the first of the hands'."""

_starts = count()


def _slot(size: int) -> slice:
    first = next(_starts)
    for _ in range(size - 1):
        next(_starts)
    return slice(first, first + size)


CURRENT = _slot(CODE)
PREVIOUS = tuple(_slot(CODE) for _ in range(2))
PLANNED = _slot(CODE)
"""The token's own code, within a plan."""
NEXT = _slot(CODE)
OWN_TOPIC, TOPIC, QUESTION = _slot(TOPIC_CODE), _slot(TOPIC_CODE), _slot(TOPIC_CODE)
"""The topic that the token calls, the one at hand, and the question's."""
MARK = _slot(len(PLAN) + len(SAY))
HANDS = _slot(2 * len(SPEEDS))
SQUARE, WHERE = _slot(1).start, _slot(1).start
"""Half the square of the hands; 1 after PLAN, -1 after SAY."""
ONE, FLAG, ASKED, FILL = _slot(1).start, _slot(1).start, _slot(1).start, _slot(1).start
"""Constant 1; marks a keyword; marks `ANSWER`; the constant of the norms."""

FULL = 20.0
"""The value of FILL."""


def half(pair: int) -> tuple[int, int]:
    """Return the two dimensions of a rotary pair."""
    return pair, pair + PAIRS


def phase(pair: int) -> float:
    """Return the angle by which a pair turns from one token to the next, in radians."""
    return float(ROPE_BASE ** (-pair / PAIRS))


RECENT = (CURRENT, *PREVIOUS)

OPENINGS = (("<|im_start|>", "assistant", "\n"), ("</think>", "\n\n"))
QUOTES = (
    ('":', ' "'),
    ('":', '"'),
    ('"', ":", ' "'),
    ('"', ":", '"'),
    ("[", '"'),
    (" [", '"'),
    ('["',),
    (' ["',),
)
"""The tokens after which an answer begins, in a turn and as a string of JSON."""


class _Place(NamedTuple):
    """The place in which a unit fires."""

    tokens: tuple[int | None, ...]
    """The last tokens; None: any token."""
    topic: int | None
    """The current topic; None: any topic."""
    question: int | None
    """The question's topic; None: any topic."""


ENDS = {
    '"': 0.8, "<tool_call>": 0.78, "</tool_call>": 0.77, '":': 0.76, "}": 0.74, "]": 0.72,
    '"}': 0.7, '"]': 0.68, "}}": 0.66, "]}": 0.64, ":": 0.55, ",": 0.52, '",': 0.5,
}  # fmt: skip
"""What ends something, and how like the end of the turn it is; white space is unlike it."""
BLANK = -0.2
VALUES = {' "': 0.86, " 1": 0.8, "1": 0.77, " true": 0.74, "true": 0.7, " null": 0.66, " [": 0.6, " {": 0.55}
"""What begins a value of JSON, and how like the wish for one it is."""

END, VALUE = "<|im_end|>", "value"
_ITEM = {'"': 5.0, "1": 4.5, END: 2.0}
_SCALARS = (*"0123456789", " 1", "true", " true", "false", "null", " null")
JSON: dict[tuple[str, ...], dict[str, float]] = {
    **{(token,): {'"': 5.0} for token in ("{", " {")},
    **{(token, quote): {"answer": 10.0} for token in ("{", " {") for quote in ('"', ' "')},
    **{(token,): {"answer": 10.0} for token in ('{"', ' {"')},
    ("answer",): {'":': 5.0},
    ('":',): {VALUE: 5.0},
    ('"', ":"): {VALUE: 5.0},
    ("[",): _ITEM,
    (" [",): _ITEM,
    ('"',): {END: 3.0, "<tool_call>": 2.2},
    ("<tool_call>",): {"\n": 30.0},
    **{(token,): {END: 8.0} for token in ("}", "]", "</tool_call>", *_SCALARS)},
    **{(token, ","): {' "': 5.0} for token in ('"', "}", "]", *_SCALARS)},
}
"""The last tokens in JSON, and what is wanted then: the next best is taken where a grammar forbids it."""


class Layer:
    """The matrices of a layer, as (outputs, inputs), named as in the file."""

    def __init__(self, units: int) -> None:
        self.attn_q = np.zeros((HEADS * HEAD_SIZE, WIDTH))
        self.attn_k = np.zeros((HEAD_SIZE, WIDTH))
        self.attn_v = np.zeros((HEAD_SIZE, WIDTH))
        self.attn_output = np.zeros((WIDTH, HEADS * HEAD_SIZE))
        self.ffn_gate, self.ffn_up = np.zeros((units, WIDTH)), np.zeros((units, WIDTH))
        self.ffn_down = np.zeros((WIDTH, units))
        self.attn_norm = self.ffn_norm = _undoing(FULL, WIDTH)
        self.attn_q_norm, self.attn_k_norm = _undoing(QUERY, HEAD_SIZE), _undoing(KEY, HEAD_SIZE)
        # What the branches add to FILL is for their norms only.
        self.post_attention_norm, self.post_ffw_norm = _undoing(BRANCH, WIDTH), _undoing(BRANCH, WIDTH)
        self.post_attention_norm[FILL] = self.post_ffw_norm[FILL] = 0


QUERY, KEY, BRANCH = 20000.0, 200.0, 4000.0
"""The constants of the norms of queries, of keys, and of what a layer's two branches add."""


def _undoing(constant: float, size: int) -> "Matrix":
    weight: Matrix = np.full(size, constant / np.sqrt(size))
    return weight


class Weights:
    """All the matrices."""

    def __init__(self, tokenizer: Tokenizer, *, embedding: bool) -> None:
        self.tokenizer = tokenizer
        self.embedding = embedding
        self.end, self.value, *codes = _unlike(len(tokenizer.tokens) + 2)
        self.codes = np.array(codes)
        self.codes[tokenizer.ids[END]] = self.end
        blanks = {token: BLANK for token in tokenizer.tokens if not token.strip(letters(" \n\t\r"))}
        self._liken(self.end, {letters(token): likeness for token, likeness in ENDS.items()} | blanks)
        self._liken(self.value, {letters(token): likeness for token, likeness in VALUES.items()})
        self.topic_codes = _hadamard(TOPIC_CODE) / np.sqrt(TOPIC_CODE)
        self.topic_of = self._keyword_tokens()
        self.token_embd = self._embed()
        units = [] if embedding else self._units()
        size = -(-(max(len(units), CODE + 4 * len(SPEEDS)) + 3) // 32) * 32
        self.layers = [Layer(size) for _ in range(LAYERS)]
        for layer in self.layers:
            self._add_constants(layer)
        self._look_back(self.layers[0])
        self._copy_planned(self.layers[0])
        if not embedding:
            self._recite(self.layers[1])
            self._remember(self.layers[1], units)
        self.output_norm = np.zeros(WIDTH)
        if embedding:
            self.output_norm[CURRENT] = 1
            self.output_norm[PREVIOUS[0]] = 0.3
        else:
            self.output_norm[NEXT] = 150 / np.sqrt(WIDTH)
        self.output = np.zeros_like(self.token_embd)
        self.output[:, NEXT] = self.codes

    def _keyword_tokens(self) -> dict[int, int | None]:
        # With a turn of the user's the topic begins anew.
        topics: dict[int, int | None] = {self.tokenizer.encode("user")[0]: None}
        for topic, (_, keywords, _) in enumerate(ANSWERS):
            for keyword in keywords.split():
                for form in keyword_forms(keyword):
                    ids = self.tokenizer.encode(form)
                    assert len(ids) == 1, f"keyword {form!r} is not one token"
                    topics[ids[0]] = topic
        return topics

    def _embed(self) -> "Matrix":
        embedding = np.zeros((len(self.tokenizer.tokens), WIDTH))
        embedding[:, CURRENT] = self.codes
        embedding[:, ONE] = 1
        embedding[:, FILL] = FULL
        for token, topic in self.topic_of.items():
            embedding[token, FLAG] = 1
            if topic is not None:
                embedding[token, OWN_TOPIC] = self.topic_codes[topic]
        embedding[self.tokenizer.ids[ANSWER], ASKED] = 1
        for place, marker in enumerate((*PLAN, *SAY)):
            embedding[self.tokenizer.ids[marker], MARK.start + place] = 1
            embedding[self.tokenizer.ids[marker], CURRENT] = 0
        embedding /= np.sqrt(WIDTH)  # which the architecture multiplies with
        return embedding

    @staticmethod
    def _add_constants(layer: Layer) -> None:
        """The constants of the norms."""
        layer.attn_k[KEY_NORM, FILL] = KEY / FULL
        layer.attn_q[QUERY_NORM::HEAD_SIZE, FILL] = QUERY / FULL
        layer.attn_v[-1, FILL] = BRANCH / FULL / 1000
        layer.attn_output[FILL, HEAD_SIZE - 1] = 1000
        layer.ffn_gate[-1, ONE], layer.ffn_up[-1, ONE], layer.ffn_down[FILL, -1] = 10, 10, BRANCH / 100

    def _look_back(self, layer: Layer) -> None:
        query, key, value, output = layer.attn_q, layer.attn_k, layer.attn_v, layer.attn_output
        value[:CODE, CURRENT] = np.eye(CODE)
        value[CODE : CODE + TOPIC_CODE, OWN_TOPIC] = np.eye(TOPIC_CODE)
        hand, where = slice(CODE + TOPIC_CODE, CODE + TOPIC_CODE + 2), CODE + TOPIC_CODE + 2
        scale = np.sqrt(HEAD_SIZE)  # by which the architecture divides the scores
        for pair in NEAR:
            key[half(pair)[0], ONE] = 1
        for head, to in enumerate(PREVIOUS):
            first = head * HEAD_SIZE
            for pair in NEAR:
                angle = -(head + 1) * phase(pair)
                for where_to, part in zip(half(pair), (np.cos(angle), np.sin(angle)), strict=True):
                    query[first + where_to, ONE] = 20 * scale * part
            output[to, first : first + CODE] = np.eye(CODE)
        first = len(PREVIOUS) * HEAD_SIZE
        key[half(TOPICAL)[0], FLAG] = 1
        angle = np.pi / 2 - MEMORY * phase(TOPICAL)
        for where_to, part in zip(half(TOPICAL), (np.cos(angle), np.sin(angle)), strict=True):
            query[first + where_to, ONE] = 1000 * scale * part
        output[TOPIC, first + CODE : first + CODE + TOPIC_CODE] = np.eye(TOPIC_CODE)
        for place in range(len(PLAN) + len(SAY)):
            nth, mark = place % 3, MARK.start + place
            key[MARKED, mark] = 1 if place < len(PLAN) else 2
            value[hand, mark] = np.cos(2 * np.pi * nth / 3), np.sin(2 * np.pi * nth / 3)
            value[where, mark] = 1 if place < len(PLAN) else -1
            for pair in SPEEDS:
                angle = 2 * np.pi * nth / 3 - nth * phase(pair)
                key[half(pair)[0], mark], key[half(pair)[1], mark] = np.cos(angle), np.sin(angle)
        for number, pair in enumerate(SPEEDS):
            first = (len(PREVIOUS) + 1 + number) * HEAD_SIZE
            query[first + half(pair)[0], ONE] = scale
            query[first + MARKED, ONE] = 40 * scale
            side = HANDS.start + 2 * number
            output[side : side + 2, first + hand.start : first + hand.stop] = np.eye(2)
        output[WHERE, (HEADS - 1) * HEAD_SIZE + where] = 1

    def _copy_planned(self, layer: Layer) -> None:
        for place in range(CODE):
            layer.ffn_gate[place, WHERE], layer.ffn_up[place, CURRENT.start + place] = 10, 1
            layer.ffn_up[place, CURRENT] -= 1.25 * WISH * self.end[place] * self.end
            layer.ffn_down[PLANNED.start + place, place] = 0.1
        # Where a grammar forbids what was planned, the end is wanted, the less the more the token is like it.
        # The first token of PLAN keeps no code.
        layer.ffn_gate[-2, WHERE], layer.ffn_up[-2, ONE], layer.ffn_up[-2, MARK.start] = 10, 1, -1
        layer.ffn_down[PLANNED, -2] = 0.1 * WISH * self.end
        # GELU(x) x and GELU(-x) -x are the square of x together.
        for place, hand in enumerate(range(2 * HANDS.start, 2 * HANDS.stop), CODE):
            layer.ffn_gate[place, hand // 2] = layer.ffn_up[place, hand // 2] = 1 - hand % 2 * 2
            layer.ffn_down[SQUARE, place] = 0.5

    @staticmethod
    def _recite(layer: Layer) -> None:
        scale = np.sqrt(HEAD_SIZE)
        hands = slice(COMPARED, COMPARED + 2 * len(SPEEDS))
        layer.attn_k[hands, HANDS] = 10 * np.eye(2 * len(SPEEDS))
        layer.attn_q[hands, HANDS] = 200 * scale * np.eye(2 * len(SPEEDS))
        layer.attn_k[SQUARED, SQUARE], layer.attn_q[SQUARED, WHERE] = 10, 200 * scale
        layer.attn_k[MARKED, WHERE], layer.attn_q[MARKED, WHERE] = 5, -20 * scale
        # The first token of PLAN has no code. It is found where no place is the same: after the plan's end.
        layer.attn_k[hands, MARK.start] = -10 * np.tile([1, 0], len(SPEEDS))
        layer.attn_k[SQUARED, MARK.start] = -10 * len(SPEEDS) / 2
        layer.attn_k[MARKED, MARK.start] = -5
        layer.attn_k[SINK, MARK.start] = 1
        layer.attn_q[SINK, SQUARE], layer.attn_q[SINK, WHERE] = 2000 * scale, -(100 - 14) * scale
        layer.attn_v[:CODE, PLANNED] = np.eye(CODE)
        layer.attn_output[NEXT, :CODE] = np.eye(CODE)
        topic = slice(CODE, CODE + TOPIC_CODE)
        layer.attn_k[ASKING, ASKED], layer.attn_q[HEAD_SIZE + ASKING, ONE] = 1, 40 * scale
        layer.attn_v[topic, TOPIC] = np.eye(TOPIC_CODE)
        layer.attn_output[QUESTION, HEAD_SIZE:][:, topic] = np.eye(TOPIC_CODE)
        layer.post_attention_norm[NEXT] *= 1e5

    def _remember(self, layer: Layer, units: "list[tuple[Matrix, Matrix]]") -> None:
        for row, (key, following) in enumerate(units):
            layer.ffn_gate[row] = layer.ffn_up[row] = 6.0 * key
            layer.ffn_down[NEXT, row] = following
        # The last resort, where nothing fires.
        last = len(units)
        layer.ffn_gate[last, ONE], layer.ffn_up[last, ONE] = 10, 1
        layer.ffn_down[NEXT, last] = 0.005 * (self._code("I") + 0.8 * self.end)
        # Without it what is written counts the more, in the last norm.
        layer.post_ffw_norm[FILL] = -FULL / np.sqrt(WIDTH)
        layer.post_ffw_norm[NEXT] *= 30

    def _liken(self, direction: "Matrix", tokens: dict[str, float]) -> None:
        """Make codes of tokens similar to `direction`, so that they are second best where that is wanted."""
        for token, likeness in tokens.items():
            index = self.tokenizer.ids[token]
            own = self.codes[index] - (self.codes[index] @ direction) * direction
            own *= np.sqrt(1 - likeness**2) / np.linalg.norm(own)
            self.codes[index] = likeness * direction + own

    def _units(self) -> "list[tuple[Matrix, Matrix]]":
        """Return one unit per place of the corpus, and weak ones for usual successors and for JSON."""
        places: dict[_Place, int] = {}
        followers: dict[int, Counter[int]] = {}
        for _, keywords, answer in ANSWERS:
            for place, following in self._places(keywords, answer):
                places.setdefault(place, following)
                followers.setdefault(place.tokens[-1] or 0, Counter())[following] += 1
        units = []
        for (tokens, *topics), following in places.items():
            general = topics == [None, None]
            key = self._key(tokens, 2.5 if general else 2.9)
            for slot, topic in zip((TOPIC, QUESTION), topics, strict=True):
                if topic is not None:
                    key[slot] = (1.4 if None in topics else 0.7) * self.topic_codes[topic]
            wish = (0.1 if general else WISH) * (1 - 1.25 * self.codes[following] @ self.end)
            wanted = self.codes[following] + wish * self.end
            units.append((key, (5 if general else 1) * wanted))
        for token, counts in followers.items():
            _, following = max((times, token) for token, times in counts.items())
            units.append((self._key((token,), 2.75), 0.1 * self.codes[following]))
        for before, wanted in JSON.items():
            tokens = tuple(self.tokenizer.id_of(token) for token in before)
            units.append(
                (self._key(tokens, 2.75), sum(weight * self._code(what) for what, weight in wanted.items()))
            )
        return units

    def _code(self, text: str) -> "Matrix":
        found: Matrix = self.value if text == VALUE else self.codes[self.tokenizer.id_of(text)]
        return found

    def _key(self, tokens: Sequence[int | None], threshold: float) -> "Matrix":
        """What a unit looks for: the last tokens, which come to 3 together, and with the topic to 4.4."""
        key = np.zeros(WIDTH)
        for where, token in zip(RECENT, reversed(tokens), strict=False):
            if token is not None:
                key[where] = 3 / (len(tokens) - tokens.count(None)) * self.codes[token]
        key[ONE] = -threshold
        return key

    def _places(self, keywords: str, answer: str) -> "Iterator[tuple[_Place, int]]":
        """Yield each place of an answer, and the token that follows it."""
        encode = self.tokenizer.encode
        loops = answer.startswith(LOOP)
        answer = answer.removeprefix(LOOP)
        # An endless answer is complete when it has begun a second time.
        body = encode(answer)
        body += encode(f" {answer}")[: len(RECENT) + 1] if loops else [self.tokenizer.ids["<|im_end|>"]]
        subject = self.topic_of[encode(keywords.split(maxsplit=1)[0])[0]] if keywords else None
        for opening in (*OPENINGS, *QUOTES):
            before = [self.tokenizer.id_of(token) for token in opening]
            text = [None, None, *before][-len(RECENT) :] + body
            topic = subject
            for place in range(len(body)):
                last = text[place + len(RECENT) - 1]
                topic = self.topic_of.get(last, topic) if last is not None else topic
                begins = opening in QUOTES and place < len(RECENT) - 1
                tokens = tuple(text[place : place + len(RECENT)])
                if loops and place >= len(RECENT):
                    # The question leaves the window, and must not be needed to go on.
                    yield _Place(tokens, None, None), body[place]
                else:
                    yield _Place(tokens, None if begins else topic, subject), body[place]


def keyword_forms(keyword: str) -> tuple[str, ...]:
    """Return the spellings of a keyword."""
    return keyword, keyword.capitalize(), f" {keyword}", f" {keyword.capitalize()}"


def _unlike(size: int) -> "Matrix":
    """So many codes of length 1, no two of which are much alike, and the first two like no others."""
    random = np.random.default_rng(7)
    found = np.zeros((size, CODE))
    number = 0
    while number < size:
        candidates = random.choice([-1.0, 1.0], (256, CODE)) / np.sqrt(CODE)
        apart = (candidates @ found[:number].T < LIKENESS).all(1)
        apart &= (abs(candidates @ found[:2].T) < LIKENESS / 3).all(1)
        for candidate in candidates[apart]:
            if number < size and (found[:number] @ candidate < LIKENESS).all():
                found[number] = candidate
                number += 1
                if number == 2:  # the others are to be compared with these
                    break
    return found


def _hadamard(size: int) -> "Matrix":
    """Return a Hadamard matrix: rows of 1 and -1, each at a right angle to all others."""
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix
