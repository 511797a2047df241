"""Bodies that are too large, too slow, too deep, too many. Each is refused or waits; nobody else does."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator

from tests.attack.ground import Bystander, Gateway
from tests.bombs import gzip_bomb, zstd_bomb

MIB = 2**20
HEAD = "POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n{lines}\r\n"
SLOW_PATIENCE = 90.0
"""Seconds within which a body that does not come is given up."""


def attack(gateway: Gateway, bystander: Bystander) -> Iterator[str]:
    """Each flood in turn."""
    floods: dict[str, Callable[[], str | None]] = {
        f"{len(body) / MIB:.0f} MiB of {name} to {path}": _sender(gateway, path, body, encoding)
        for name, path, body, encoding in _bodies()
    }
    floods["25 half-sent bodies"] = lambda: half_sent(gateway)
    floods["200 connections that say nothing"] = lambda: silent(gateway)
    floods["a byte a second"] = lambda: dripping(gateway)
    floods["50 readers of /admin/events and /admin/logs that read nothing"] = lambda: unread_events(gateway)
    for name, flood in floods.items():
        before = gateway.memory
        bystander.faults()
        fault = flood()
        faults = [*([fault] if fault else []), *bystander.faults()]
        if gateway.memory > before + 600 * MIB:
            faults.append(f"the gateway grew by {gateway.memory - before >> 20} MiB")
        yield from (f"{name}: {fault}" for fault in faults)


def _bodies() -> Iterator[tuple[str, str, bytes, str]]:
    messages = (
        b'{"model":"faulty","messages":[' + b",".join([b'{"role":"user","content":"x"}'] * 1_850_000) + b"]}"
    )
    for path in ("/api/chat", "/v1/chat/completions", "/v1/messages"):
        yield "messages", path, messages, ""
    parts = b",".join([b'{"type":"text","text":"x"}'] * 1_500_000)
    yield (
        "parts",
        "/v1/chat/completions",
        b'{"model":"faulty","messages":[{"role":"user","content":[%b]}]}' % parts,
        "",
    )
    yield (
        "fields",
        "/v1/chat/completions",
        b"{" + b",".join(b'"%d":1' % n for n in range(3_000_000)) + b"}",
        "",
    )
    yield "numbers", "/v1/completions", b'{"model":"faulty","prompt":[' + b"1," * 20_000_000 + b"1]}", ""
    yield "depth", "/v1/chat/completions", b'{"model":"faulty","messages":' + b"[" * 30_000_000, ""
    yield (
        "one digit after another",
        "/v1/chat/completions",
        b'{"model":"faulty","n":' + b"7" * 30_000_000 + b"}",
        "",
    )
    yield (
        "escapes",
        "/api/chat",
        b'{"model":"faulty","messages":[{"role":"user","content":"' + b"\\n" * 25_000_000 + b'"}]}',
        "",
    )
    bombs = {"gzip": gzip_bomb(), "zstd": zstd_bomb()}
    for path in ("/v1/chat/completions", "/api/chat", "/upstream/faulty/v1/chat/completions"):
        for encoding, bomb in bombs.items():
            yield f"{encoding} for gigabytes", path, bomb, encoding
    yield "no gzip", "/v1/chat/completions", b"\x1f\x8bnothing", "gzip"
    yield "no zstd", "/v1/responses", b"\x28\xb5\x2f\xfdnothing", "zstd"


def _sender(gateway: Gateway, path: str, body: bytes, encoding: str) -> Callable[[], str | None]:
    return lambda: send(gateway, path, body, encoding)


def send(gateway: Gateway, path: str, body: bytes, encoding: str) -> str | None:
    """Send a body; say what is wrong with the answer."""
    lines = f"Content-Length: {len(body)}\r\n" + (f"Content-Encoding: {encoding}\r\n" if encoding else "")
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=60) as client:
        try:
            client.sendall(HEAD.format(path=path, port=gateway.port, lines=lines).encode() + body)
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused before it was read: the answer is there, or was lost with the reset
        except TimeoutError:
            return "neither read nor refused within a minute"
        try:
            answer = client.recv(4096)
        except ConnectionResetError:
            return None
        except TimeoutError:
            return "no answer within a minute"
    status = answer[9:12].decode("latin-1")
    # The fault server makes nothing of what passes: 502.
    if not answer or status in ("200", "400", "408", "413", "415", "422", "502", "503"):
        return None
    return f"{status} after {time.monotonic() - began:.1f} s: {answer[-200:]!r}"


def half_sent(gateway: Gateway) -> str | None:
    """Bodies of which the end does not come are given up, and hold no more than a budget until then."""
    before = gateway.memory
    body = json.dumps({"model": "faulty", "messages": [{"role": "user", "content": "x" * 60 * MIB}]}).encode()
    lines = f"Content-Length: {len(body)}\r\n"
    clients = [socket.create_connection(("127.0.0.1", gateway.port), timeout=10) for _ in range(25)]

    def fill(client: socket.socket) -> None:
        try:
            client.sendall(HEAD.format(path="/v1/chat/completions", port=gateway.port, lines=lines).encode())
            client.sendall(body[: len(body) - MIB])
        except OSError:
            return  # refused, or not read: either way it holds nothing

    fillers = [threading.Thread(target=fill, args=(client,)) for client in clients]
    for filler in fillers:
        filler.start()
    for filler in fillers:
        filler.join()
    grown = gateway.memory - before
    answer = gateway.chat("do:good", stream=False)
    ended = _all_end(clients, SLOW_PATIENCE)
    if answer.status_code != 200:
        return f"a small request meanwhile: {answer.status_code} {answer.text[:200]}"
    if grown > 700 * MIB:
        return f"they hold {grown >> 20} MiB"
    return None if ended else f"they are still open after {SLOW_PATIENCE:g} s"


def silent(gateway: Gateway) -> str | None:
    """Connections whose request does not come are closed, and keep nobody out."""
    clients = [socket.create_connection(("127.0.0.1", gateway.port), timeout=10) for _ in range(200)]
    for client in clients[::2]:
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n")
    answer = gateway.chat("do:good", stream=False)
    ended = _all_end(clients, SLOW_PATIENCE)
    if answer.status_code != 200:
        return f"a request meanwhile: {answer.status_code}"
    return None if ended else f"they are still open after {SLOW_PATIENCE:g} s"


def unread_events(gateway: Gateway) -> str | None:
    """What is not read of changes and logs is dropped, and holds up nobody."""
    before = gateway.memory
    clients = [socket.create_connection(("127.0.0.1", gateway.port), timeout=10) for _ in range(50)]
    try:
        for number, client in enumerate(clients):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            path = b"/admin/events" if number % 2 else b"/admin/logs?follow=1"
            client.sendall(b"GET %b HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % path)
        for _ in range(300):
            if (answer := gateway.chat("do:good", stream=False)).status_code != 200:
                return f"a request meanwhile: {answer.status_code} {answer.text[:200]}"
        grown = gateway.memory - before
        return f"they hold {grown >> 20} MiB" if grown > 100 * MIB else None
    finally:
        for client in clients:
            client.close()


def dripping(gateway: Gateway) -> str | None:
    """A body that comes a byte a second is given up."""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=1) as client:
        lines = "Content-Length: 100000\r\n"
        client.sendall(HEAD.format(path="/v1/chat/completions", port=gateway.port, lines=lines).encode())
        deadline = time.monotonic() + SLOW_PATIENCE
        while time.monotonic() < deadline:
            try:
                client.sendall(b" ")
                answer = client.recv(4096)
            except TimeoutError:
                continue
            except OSError:
                return None
            return None if not answer or b" 408 " in answer[:20] else f"answered {answer[:100]!r}"
    return f"still read after {SLOW_PATIENCE:g} s"


def _all_end(clients: list[socket.socket], seconds: float) -> bool:
    """Whether the gateway closes all of them in time."""
    deadline = time.monotonic() + seconds
    try:
        for client in clients:
            while True:
                client.settimeout(max(0.01, deadline - time.monotonic()))
                try:
                    if not client.recv(65536):
                        break
                except TimeoutError:
                    return False
                except OSError:
                    break
        return True
    finally:
        for client in clients:
            client.close()
