"""Clients that do what HTTP allows, though few do: each gets its own answers, whole."""

import json
import re
import socket
import struct
from collections.abc import Callable, Iterator

from tests.attack.ground import Bystander, Gateway, body_of
from tests.gateway import until

MIB = 2**20
CHAT = "/v1/chat/completions"


def attack(gateway: Gateway, bystander: Bystander) -> Iterator[str]:
    """Each way in turn."""
    for way in WAYS:
        bystander.faults()
        faults = [*way(gateway), *bystander.faults()]
        yield from (f"{way.__name__.removeprefix('_')}: {fault}" for fault in faults)


def _request(
    gateway: Gateway, order: str, *lines: str, stream: bool = False, version: str = "1.1", size: int = 0
) -> bytes:
    body = json.dumps(body_of(CHAT, order + " x" * (size // 2), model="faulty", stream=stream)).encode()
    framing = () if any("Transfer-Encoding" in line for line in lines) else (f"Content-Length: {len(body)}",)
    start = (f"POST {CHAT} HTTP/{version}", f"Host: 127.0.0.1:{gateway.port}")
    text = "\r\n".join((*start, "Content-Type: application/json", *framing, *lines, "", "")).encode()
    return text + body


def _connect(gateway: Gateway) -> socket.socket:
    return socket.create_connection(("127.0.0.1", gateway.port), timeout=30)


def _rest(client: socket.socket) -> bytes:
    """All that comes until the connection ends."""
    pieces = []
    while piece := client.recv(65536):
        pieces.append(piece)
    return b"".join(pieces)


def _ask(gateway: Gateway, *requests: bytes, shut: bool = False) -> bytes:
    with _connect(gateway) as client:
        client.sendall(b"".join(requests))
        if shut:
            client.shutdown(socket.SHUT_WR)
        try:
            return _rest(client)
        except TimeoutError:
            return b"<no end>"


def _pipelined(gateway: Gateway) -> Iterator[str]:
    ids = [f"r{number}" for number in range(60)]
    requests = [
        _request(gateway, "do:good", f"X-Request-Id: {one}", stream=number % 2 > 0)
        for number, one in enumerate(ids)
    ]
    answer = _ask(gateway, *requests, _request(gateway, "do:good", "Connection: close"))
    if re.findall(rb"X-Request-Id: (r\d+)", answer) != [one.encode() for one in ids]:
        yield f"the answers are not those to the requests, in their order: {answer[-200:]!r}"


def _in_single_bytes(gateway: Gateway) -> Iterator[str]:
    with _connect(gateway) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in _request(gateway, "do:good", "Connection: close"):
            client.sendall(bytes([byte]))
        answer = _rest(client)
    if b" 200 OK" not in answer:
        yield f"{answer[:200]!r}"


def _half_closed(gateway: Gateway) -> Iterator[str]:
    for stream in (True, False):
        requests = [_request(gateway, "do:good", stream=stream) for _ in range(3)]
        answer = _ask(gateway, *requests, shut=True)
        if answer.count(b" 200 OK") != 3 or (stream and answer.count(b"[DONE]") != 3):
            yield f"{answer.count(b' 200 OK')} of 3 answers came, {stream=}"


def _of_http_1_0(gateway: Gateway) -> Iterator[str]:
    answer = _ask(gateway, _request(gateway, "do:long", stream=True, version="1.0"))
    if not answer.endswith(b"data: [DONE]\n\n") or b"chunked" in answer[:500]:
        yield f"{answer[:100]!r} to {answer[-100:]!r}"


def _expecting(gateway: Gateway) -> Iterator[str]:
    head, _, body = _request(
        gateway, "do:good", "Expect: 100-continue", "Connection: close", size=2 * MIB
    ).partition(b"\r\n\r\n")
    with _connect(gateway) as client:
        client.sendall(head + b"\r\n\r\n")
        first = client.recv(1024)
        client.sendall(body)
        answer = _rest(client)
    if not first.startswith(b"HTTP/1.1 100 ") or b" 200 OK" not in answer:
        yield f"{first!r}, then {answer[:200]!r}"


def _in_chunks_with_a_trailer(gateway: Gateway) -> Iterator[str]:
    lines = ("Transfer-Encoding: chunked", "Trailer: X-Sum")
    head, _, body = _request(gateway, "do:good", *lines).partition(b"\r\n\r\n")
    chunks = b"".join(b"1;a=b\r\n%c\r\n" % byte for byte in body) + b"0\r\nX-Sum: 1\r\n\r\n"
    answer = _ask(gateway, head + b"\r\n\r\n" + chunks, _request(gateway, "do:good", "Connection: close"))
    if answer.count(b" 200 OK") != 2:
        yield f"{answer[:200]!r}"


def _smuggling(gateway: Gateway) -> Iterator[str]:
    inner = b"0\r\n\r\nGET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    for lines in (
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Content-Length: 5\r\nContent-Length: 6",
        "Transfer-Encoding: chunked, identity",
        "Content-Length: +5",
        "Transfer-Encoding:\x0bchunked\r\nContent-Length: 3",
    ):
        start = f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\n{lines}\r\n\r\n".encode()
        answer = _ask(gateway, start + inner)
        if answer.count(b"HTTP/1.") != 1 or b" 400 " not in answer[:20]:
            yield f"{lines!r}: {answer[:200]!r}"


def _leaving(gateway: Gateway) -> Iterator[str]:
    """In the middle of large bodies and of streams: nothing of them stays taken."""
    large = _request(gateway, "do:good", size=30 * MIB)
    for number in range(24):
        with _connect(gateway) as client:
            client.sendall(large[: len(large) * (number % 8 + 1) // 9])
            if number % 2:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    for _ in range(80):
        with _connect(gateway) as client:
            client.sendall(_request(gateway, "do:steady", stream=True))
            client.sendall(_request(gateway, "do:good", size=MIB))
            client.recv(100)

    def works() -> bool:
        return gateway.chat("do:good " + "x " * (15 * MIB), stream=False).status_code == 200

    try:
        until(works, "a large body is taken", 20)
    except AssertionError as error:
        yield str(error)


WAYS: tuple[Callable[[Gateway], Iterator[str]], ...] = (
    _pipelined,
    _in_single_bytes,
    _half_closed,
    _of_http_1_0,
    _expecting,
    _in_chunks_with_a_trailer,
    _smuggling,
    _leaving,
)
