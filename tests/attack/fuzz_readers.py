"""Seeded mutations of what the readers of the gateway's edges read: each raises its own errors only."""

import json
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

from agents.chat import Chat
from proxy.answers.relay import count_tokens
from proxy.apis.answer_json import UnreadableError
from proxy.apis.assemble import StreamedError, UnfinishedError, assemble, take
from proxy.apis.fields import FieldError
from proxy.apis.interface import Codec, Counter, Embedder
from proxy.apis.openai.body import CompletionRequest
from proxy.apis.stream_end import outcome
from proxy.apis.table import ENDPOINTS, SERVERS, STREAM_ENDS
from proxy.wire.http1 import HeadReader, ProtocolError, body_of
from proxy.wire.sse import EventSplitter, EventTooLongError
from tests.attack.mutations import in_pieces, mutated, mutated_json
from tests.attack.odd_requests import BODIES
from tests.attack.streams import GOOD, USAGE, chunks, head

KNOWN = (EventTooLongError, FieldError, ProtocolError, StreamedError, UnfinishedError, UnreadableError)
"""What a reader may raise."""
Json = dict[str, Any]
ENDPOINT = {endpoint.path: endpoint for endpoint in ENDPOINTS}
Reader = Callable[[bytes, random.Random], object]


def attack(seed: int, seconds: float) -> Iterator[str]:
    """Feed each reader mutated bytes; yield what raises anything but its own errors."""
    rng = random.Random(seed)
    ends = time.monotonic() + seconds
    seen: set[str] = set()
    while time.monotonic() < ends:
        for name, read in READERS.items():
            data = rng.choice(SAMPLES[name])
            changed = mutated(data, rng) if rng.random() < 0.5 else _mutated_events(data, rng)
            try:
                read(changed, rng)
            except KNOWN:
                pass
            except Exception as error:  # that is what is looked for
                fault = f"{name}: {type(error).__name__}: {str(error)[:100]}"
                if fault not in seen:
                    seen.add(fault)
                    yield f"{fault} by {changed[:300]!r}"


def _mutated_events(data: bytes, rng: random.Random) -> bytes:
    """One event's, line's or body's JSON changed."""
    lines = data.split(b"\n")
    places = [index for index, line in enumerate(lines) if b"{" in line]
    if not places:
        return mutated(data, rng)
    place = rng.choice(places)
    before, brace, rest = lines[place].partition(b"{")
    try:
        value = json.loads(brace + rest)
    except ValueError:
        return mutated(data, rng)
    lines[place] = before + mutated_json(value, rng)
    return b"\n".join(lines)


def _read_response(data: bytes, rng: random.Random) -> None:
    reader = HeadReader()
    pieces = iter(in_pieces(data, rng))
    for piece in pieces:
        if (found := reader.feed(piece)) is not None:
            answer, rest = found
            body = body_of(answer, "POST")
            body.feed(rest)
            for more in pieces:
                if body.done:
                    break
                body.feed(more)
            return


def _decode(api: str) -> Reader:
    def read(data: bytes, rng: random.Random) -> None:
        decoder = SERVERS[api].decoder("x", Chat(model="m", messages=[]))  # type: ignore[index]
        for piece in in_pieces(data, rng):
            decoder.feed(piece)
        decoder.end()

    return read


def _assemble(path: str) -> Reader:
    make = ENDPOINT[path].assembler
    assert make is not None

    def read(data: bytes, rng: random.Random) -> None:
        assembler = make(CompletionRequest(model="x", prompt="x", return_tokens=True))
        splitter = EventSplitter()
        for piece in in_pieces(data, rng):
            take(assembler, splitter.feed(piece))
        assemble(assembler)

    return read


def _end(data: bytes, _rng: random.Random) -> None:
    for end in STREAM_ENDS:
        outcome(data, end)
    count_tokens(data)


def _failure(data: bytes, _rng: random.Random) -> None:
    for server in SERVERS.values():
        server.failure(data, 500)
        server.decode_embeddings(data)


def _reads(path: str) -> Codec | Embedder | Counter | None:
    return ENDPOINT[path].codec or ENDPOINT[path].embedder or ENDPOINT[path].counter


def _is_read(path: str) -> bool:
    return _reads(path) is not None


def _client(path: str) -> Reader:
    reads = _reads(path)
    assert reads is not None

    def read(data: bytes, _rng: random.Random) -> None:
        reads.decode(data)

    return read


LINES = b"".join(
    json.dumps({"model": "x", "message": {"role": "assistant", "content": text}, "done": False}).encode()
    + b"\n"
    for text in "abc"
)
LAST_LINE = {"model": "x", "message": {"content": ""}, "done": True, "done_reason": "stop", "eval_count": 3}
STREAMS = {path: b"".join(events) for path, events in GOOD.items()}
VECTORS: Json = {
    "data": [{"index": 0, "embedding": [0.1, 0.2]}],
    "usage": USAGE,
    "embeddings": [[0.1]],
    "model": "x",
}
FAILURE: Json = {"error": {"code": 400, "message": "too odd", "type": "invalid_request_error", "n_ctx": 5}}

READERS: dict[str, Reader] = {
    "a response": _read_response,
    "llama.cpp's stream": _decode("llama.cpp"),
    "Ollama's stream": _decode("ollama"),
    "an end": _end,
    "a whole answer": _failure,
    **{f"assembled {path}": _assemble(path) for path in GOOD if ENDPOINT[path].assembler},
    **{f"a request to {path}": _client(path) for path in BODIES if path in ENDPOINT and _is_read(path)},
}
SAMPLES: dict[str, list[bytes]] = {
    "a response": [head() + chunks(events) for events in GOOD.values()],
    "llama.cpp's stream": [
        STREAMS["/v1/chat/completions"],
        STREAMS["/v1/completions"],
        STREAMS["/completion"],
    ],
    "Ollama's stream": [LINES + json.dumps(LAST_LINE).encode() + b"\n"],
    "an end": list(STREAMS.values()),
    "a whole answer": [json.dumps(VECTORS).encode(), json.dumps(FAILURE).encode()],
    **{f"assembled {path}": [stream] for path, stream in STREAMS.items()},
    **{
        f"a request to {path}": [json.dumps({"model": "x", **body}).encode()] for path, body in BODIES.items()
    },
}
