"""Seeded requests that nobody means: wrong in target, head, framing or JSON, or in all of them.

Each must be answered, with a 4xx in the words of the API that was asked wherever it is the client's mistake,
or its connection closed if it is no whole request. `fault_of` sends one and tells what is wrong with the
answer.
"""

import json
import random
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from proxy.apis.table import dialect_of
from proxy.door.parsing import tidy_path
from tests.attack.ground import fault_model
from tests.attack.odd_requests import BODIES, FIELD_TEXTS, FIELDS, METHODS, MODELS, READS, TEXTS, VALUES
from tests.gateway import Gateway, running
from tests.ollama_daemons import stand_in_daemon

Json = dict[str, Any]

PATIENCE = 20.0
"""Seconds for an answer, on a machine that is busy."""


class Request(NamedTuple):
    """The bytes of one, and what is asked in them."""

    data: bytes
    path: str


def requests(seed: int) -> Iterator[Request]:
    """Requests without an end, the same for the same seed."""
    rng = random.Random(seed)
    while True:
        yield _request(rng)


def _request(rng: random.Random) -> Request:
    method, target = b"POST", b""
    body = b""
    if rng.random() < 0.75:
        path = rng.choice(list(BODIES))
        target = path.encode()
        if path == "/api/delete":
            method = b"DELETE"
        fields = {"model": rng.choice(MODELS), **BODIES[path]}
        body = _json(rng, fields)
        if rng.random() < 0.1:
            target = b"/upstream/demo" + target
    else:
        method, target = b"GET", rng.choice(READS).encode()
    if rng.random() < 0.15:
        method = rng.choice(METHODS).encode()
    if rng.random() < 0.2:
        target = _target(rng, target)
    if rng.random() < 0.15:
        body = _spoilt(rng, body)
    lines = [b"Host: localhost", b"Content-Type: application/json"]
    for _ in range(rng.choice((0, 0, 0, 0, 1, 1, 2, 4))):
        line = rng.choice(FIELDS) + b": " + rng.choice(FIELD_TEXTS)
        if rng.random() < 0.5 and (same := [i for i, old in enumerate(lines) if old[:5] == line[:5]]):
            lines[same[0]] = line
        else:
            lines.insert(rng.randrange(len(lines) + 1), line)
    version = rng.choice((b"HTTP/1.1",) * 12 + (b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.9", b"HTTP/x", b""))
    framed = _framed(rng, body)
    head = b"\r\n".join([method + b" " + target + b" " + version, *lines]) + b"\r\n"
    data = head + (framed if body or method == b"POST" else b"\r\n")
    if rng.random() < 0.03:
        data = data[: rng.randrange(len(data))]
    return Request(data, target.decode("latin-1"))


def _framed(rng: random.Random, body: bytes) -> bytes:
    """The last line of a head, and the body behind it."""
    kind = rng.random()
    if kind < 0.85:
        return b"Content-Length: %d\r\n\r\n" % len(body) + body
    if kind < 0.93:
        cut = rng.randrange(len(body) + 1)
        pieces = [piece for piece in (body[:cut], body[cut:]) if piece]
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
        return b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    wrong = rng.choice(
        (
            b"zz\r\n",
            b"5\r\n" + body[:3],
            b"-1\r\n",
            b"ffffffffffffffff\r\n",
            b"1\r\nab\r\n",
            b"0\r\nX-Evil: 1\r\n\r\n",
        )
    )
    return b"Transfer-Encoding: chunked\r\n\r\n" + wrong


def _target(rng: random.Random, target: bytes) -> bytes:
    text = rng.choice(TEXTS)
    change: Callable[[], bytes] = rng.choice(
        (
            lambda: target + text,
            lambda: target + b"/" + text,
            lambda: target + b"?model=" + text,
            lambda: target + b"?" + text + b"=" + text + b"&" + text,
            lambda: b"/v1/models/" + text,
            lambda: b"/upstream/" + text,
            lambda: b"/upstream/demo/" + text,
            lambda: b"/v1/agents/" + text,
            lambda: b"/v1/agents/rag/documents/" + text,
            lambda: b"/v1/agents/rag/documents?name=" + text + b"&collection=" + text,
            lambda: b"/api/blobs/" + text,
            lambda: b"/admin/plan?model=" + text,
            lambda: b"/props?model=" + text,
            lambda: b"http://localhost" + target,
            lambda: b"http://" + text + target,
            lambda: b"/" + target,
            lambda: text,
            lambda: b"localhost:80",
            lambda: b"*",
        )
    )
    return change()


def _spoilt(rng: random.Random, body: bytes) -> bytes:
    at = rng.randrange(len(body) + 1)
    change: Callable[[], bytes] = rng.choice(
        (
            lambda: b"",
            lambda: body[:at],
            lambda: b"\xef\xbb\xbf" + body,
            lambda: body + body,
            lambda: body[:at] + bytes([rng.randrange(256)]) + body[at + 1 :],
            lambda: body[:at] + rng.choice(VALUES) + body[at:],
            lambda: body.decode("utf-8", "replace").encode("utf-16"),
            lambda: rng.choice(VALUES),
            lambda: b" " * 100_000 + body,
            lambda: b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\n" + body + b"\r\n--x--\r\n",
        )
    )
    return change()


def _json(rng: random.Random, fields: Json) -> bytes:
    """A body with some values, names or fields replaced."""
    marks: list[bytes] = []

    def walk(value: Any) -> Any:
        if marks and rng.random() < 0.7:
            return value
        if isinstance(value, dict) and value and rng.random() < 0.85:
            name = rng.choice(list(value))
            how = rng.random()
            if how < 0.1:
                return {key: item for key, item in value.items() if key != name}
            if how < 0.2:
                return {
                    **value,
                    rng.choice(("", "\x00", "model", "messages", "x" * 300, "stream")): value[name],
                }
            return {**value, name: walk(value[name])}
        if isinstance(value, list) and value and rng.random() < 0.8:
            at = rng.randrange(len(value))
            return [*value[:at], walk(value[at]), *value[at + 1 :]]
        marks.append(rng.choice(VALUES))
        return f"<<{len(marks) - 1}>>"

    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        fields = walk(fields)
        if not isinstance(fields, dict):
            break
    text = json.dumps(fields, ensure_ascii=rng.random() < 0.5).encode()
    return re.sub(rb'"<<(\d+)>>"', lambda found: marks[int(found[1])], text)


# What is right

DAEMONS_OWN = r"/api/(pull|create|push|copy)"
"""Where Ollama's own errors are passed on, of which some are 500."""


@contextmanager
def target(folder: Path, **environment: str) -> Iterator[Gateway]:
    """A gateway with models of llama.cpp and of Ollama, with and without agents."""
    models = {
        "demo": fault_model(aliases=["org/demo:latest"]),
        "guarded": fault_model(agents=["guard", "cache"]),
    }
    agents = ["vram", "rag", "parallel", "cache", {"guard": {"redact": ["secret"]}}]
    with stand_in_daemon("--model", "tiny", "--model", "tiny-embed") as url:
        config = {
            "llama_cpp": {"models": models},
            "ollama": {"host": url},
            "agents": agents,
            "server": {"max_body_mb": 1},
        }
        with running(config, folder, **environment) as gateway:
            gateway.may_crash = True  # the fault server does, on paths that it does not know
            gateway.wait_for("Ollama daemon answers")
            yield gateway


def crashes(gateway: Gateway) -> list[str]:
    """What its log says of requests that it could not handle."""
    return [str(line)[:2000] for line in gateway.log if "exception" in line]


def attack(folder: Path, seed: int, seconds: float) -> Iterator[str]:
    """Send requests for so long; yield what is wrong with the answers."""
    end = time.monotonic() + seconds
    with target(folder) as gateway:
        port = int(gateway.url.rpartition(":")[2])
        for number, request in enumerate(requests(seed)):
            if time.monotonic() > end:
                break
            if (fault := fault_of(port, request)) is not None:
                yield f"request {number}: {fault}\n        {request.data[:500]!r}"
        yield from crashes(gateway)


def fault_of(port: int, request: Request) -> str | None:
    """Send a request, and no more; what is wrong with the answer."""
    wire = b""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
            try:
                client.sendall(request.data)
                client.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # refused before all was sent
            while piece := client.recv(65536):
                wire += piece
    except TimeoutError:
        return f"no end within {PATIENCE:g} s, {wire[:200]!r} so far"
    except OSError:
        pass
    return _wrong_answer(wire, request)


def _wrong_answer(wire: bytes, request: Request) -> str | None:
    while wire.startswith(b"HTTP/1.1 100 "):
        wire = wire.partition(b"\r\n\r\n")[2]
    if not wire:
        return None
    head, _, body = wire.partition(b"\r\n\r\n")
    status = head[9:12]
    if not re.match(rb"HTTP/1\.[01] [2-5][0-9][0-9] ", head):
        return f"no HTTP: {wire[:100]!r}"
    if b"X-Evil" in head:
        return f"a header of the client's in the answer: {head!r}"
    if status == b"500" and not re.search(DAEMONS_OWN, request.path):
        return f"500: {body[:300]!r}"
    if status >= b"400" and body and not request.data.startswith(b"HEAD"):
        return _wrong_error(head, body, request)
    return None


def _wrong_error(head: bytes, body: bytes, request: Request) -> str | None:
    if b"transfer-encoding: chunked" in head.lower() or b"/upstream/" in request.data[:300]:
        return None  # passed on as it was
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    try:
        error = json.loads(body[: int(length[1]) if length else None])["error"]
    except (ValueError, KeyError, TypeError):
        return f"an error that is no JSON: {head[:40]!r} {body[:200]!r}"
    is_text = isinstance(error, str)
    path = (
        None if request.data.startswith(b"CONNECT") else re.match(r"(?:http://[^/]*)?(/[^?#]*)", request.path)
    )
    is_ollamas = path is not None and dialect_of(tidy_path(path[1])).name == "ollama"
    if path and b"bad_http" not in body and is_text != is_ollamas and "%" not in path[1]:
        return f"an error in the words of another API: {body[:200]!r}"
    if not is_text and not {"message", "type"} <= set(error):
        return f"an error without its fields: {body[:200]!r}"
    return None
