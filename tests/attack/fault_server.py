"""A model server that answers as the text of the request tells it: `do:steady`, or `do:` and one of `FAULTS`.

It takes llama-server's flags and ignores those it does not need, so that the gateway can run it.
"""

import argparse
import asyncio
import json
import os
import re
import socket
import struct
from collections.abc import Callable
from typing import Any, Literal, cast

from tests.attack import odd_streams
from tests.attack.streams import DONE, ENDS, GOOD, body, chat_event, chunks, event, head

Json = dict[str, Any]
Verdict = Literal["broken", "whole", "either"]
"""Whether the client must learn that the answer is not whole, must get all of it, or may get both."""

ORDER = re.compile(rb"do:([a-z0-9-]+)")
TICK = 0.02
"""Seconds between the events of a steady stream."""


def _unfinished(path: str) -> list[bytes]:
    return GOOD[path][: -ENDS[path]]


def _with(path: str, more: bytes) -> bytes:
    """A stream that is whole but for one event more, before its end."""
    events = GOOD[path]
    return head() + chunks([*events[: -ENDS[path]], more, *events[-ENDS[path] :]])


def _small_pieces(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def _long(path: str, size: int) -> list[bytes]:
    """A stream of about `size` bytes: its second event, again and again."""
    first, second, *rest = GOOD[path]
    return [first, *[second] * (size // len(second)), *rest]


def _tool_call(path: str) -> bytes:
    call = {"index": 999_999_999, "id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    return _with(path, chat_event({"tool_calls": [call]}))


def _counts(path: str, number: str) -> bytes:
    usage = b'{"choices":[],"type":"ping","usage":{"prompt_tokens":%b,"completion_tokens":%b}}'
    return _with(path, event(usage.replace(b"%b", number.encode())))


ERROR: Json = {"code": 500, "message": "out of luck", "type": "server_error"}
PAGE = b"<!doctype html><title>Sign in</title>"

FAULTS: dict[str, tuple[Verdict, Callable[[str], bytes]]] = {
    "good": ("whole", lambda path: head() + chunks(GOOD[path])),
    "continues": (
        "either",
        lambda path: b"HTTP/1.1 100 Continue\r\n\r\n" * 5000 + head() + chunks(GOOD[path]),
    ),
    "crlf": (
        "whole",
        lambda path: (
            head() + chunks(_small_pieces(b"".join(_long(path, 500_000)).replace(b"\n", b"\r\n"), 512))
        ),
    ),
    "single-bytes": ("whole", lambda path: head() + chunks(_small_pieces(b"".join(GOOD[path]), 1))),
    "long": ("whole", lambda path: head() + chunks(_long(path, 5_000_000))),
    "no-end": ("broken", lambda path: head() + chunks(_unfinished(path))),
    "half-an-event": ("broken", lambda path: head() + chunks([*_unfinished(path), b'data: {"cho'])),
    "no-event": ("broken", lambda path: head() + chunks([])),
    "comments-only": ("broken", lambda path: head() + chunks([b": nothing\n\n"] * 3)),
    "bare-error": (
        "broken",
        lambda path: head() + chunks([*_unfinished(path), b"error: " + json.dumps(ERROR).encode() + b"\n\n"]),
    ),
    "error-event": (
        "broken",
        lambda path: head() + chunks([*_unfinished(path), event({"error": ERROR}, "error")]),
    ),
    "cut-chunk": ("broken", lambda path: head() + chunks(_unfinished(path), end=b"ff\r\ndata: {")),
    "empty-body": ("broken", lambda _: body(b"")),
    "no-content": ("broken", lambda _: b"HTTP/1.1 204 No Content\r\n\r\n"),
    "html": ("broken", lambda _: body(PAGE, kind="text/html")),
    "no-json": ("broken", lambda _: body(b"I am fine, thank you")),
    "a-list": ("broken", lambda _: body(b"[1, 2]")),
    "garbage": ("broken", lambda _: b"I am no HTTP server\r\n\r\n"),
    "no-gzip": ("broken", lambda _: body(b"\x1f\x8b nothing", "Content-Encoding: gzip")),
    "status-000": ("broken", lambda path: head(status="000 Nothing") + chunks(GOOD[path])),
    "status-999": ("broken", lambda path: head(status="999 Too much") + chunks(GOOD[path])),
    "status-long": ("broken", lambda path: head(status="2000 OK") + chunks(GOOD[path])),
    "only-continues": ("broken", lambda _: b"HTTP/1.1 100 Continue\r\n\r\n" * 50_000),
    "length-overflow": (
        "broken",
        lambda _: head("Content-Length: " + "9" * 5000, kind="application/json", chunked=False),
    ),
    "two-lengths": (
        "broken",
        lambda _: (
            head("Content-Length: 2", "Content-Length: 30", kind="application/json", chunked=False) + b"{}"
        ),
    ),
    "chunk-overflow": ("broken", lambda _: head() + b"f" * 4000 + b"\r\n"),
    "odd-headers": (
        "either",
        lambda path: (
            head("X-\u00e9: \u00fc", "X-Bell: \x07\x1b[2J", "Date: \x00", "X-Empty:") + chunks(GOOD[path])
        ),
    ),
    "no-utf8": ("either", lambda path: _with(path, event(b'{"x":"\xff\xfe"}'))),
    "deep": ("either", lambda path: _with(path, event(b"[" * 100_000 + b"]" * 100_000))),
    "long-number": ("either", lambda path: _with(path, event(b'{"created":' + b"7" * 6000 + b"}"))),
    "no-object": ("either", lambda path: _with(path, event(b"[1, null]"))),
    "counts-overflow": ("either", lambda path: _counts(path, "9" * 400)),
    "counts-negative": ("either", lambda path: _counts(path, "-5")),
    "counts-text": ("either", lambda path: _counts(path, '"many"')),
    "counts-float": ("either", lambda path: _counts(path, "1e999")),
    "tool-index": ("either", _tool_call),
    **{name: ("whole", make) for name, make in odd_streams.ALL.items()},
}


class Connection(asyncio.Protocol):
    """One connection; requests come one after the other."""

    name = ""
    """What it says for `do:name`."""
    key = os.environ.get("LLAMA_API_KEY")

    def __init__(self) -> None:
        self._data = bytearray()
        self._needed = 0
        """Bytes of the request that comes, once its length is known."""
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, _error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._data += data
        if len(self._data) < self._needed:
            return
        text, end, rest = bytes(self._data).partition(b"\r\n\r\n")
        length = int(told[1]) if (told := re.search(rb"content-length:\s*(\d+)", text.lower())) else 0
        if not end or len(rest) < length:
            self._needed = len(text) + len(end) + length if end else 0
            return
        self._data.clear()
        self._needed = 0
        path = text.split(b" ")[1].partition(b"?")[0].decode()
        order = ORDER.search(rest) or ORDER.search(text)
        if order is None:
            self._transport.write(body(b'{"status":"ok"}'))
        elif self.key and f"authorization: bearer {self.key}".lower().encode() not in text.lower():
            self._transport.write(body(b'{"error":{"code":401}}', status="401 Unauthorized"))
        elif order[1] == b"name":
            first, *_ = GOOD[path]
            self._transport.write(head() + chunks([first, chat_event({"content": self.name}, "stop"), DONE]))
        elif order[1] == b"steady":
            self._transport.write(head())
            self._tick(0)
        elif order[1] == b"megabytes":
            size = 6 * 2**20
            self._transport.write(body(b"x" * size, kind="application/octet-stream"))
        elif order[1] == b"reset":
            self._transport.write(head() + chunks(_unfinished(path), end=b""))
            self._reset()
        else:
            verdict, make = FAULTS[order[1].decode()]
            answer = make(path)
            self._transport.write(answer)
            if verdict != "whole" or b"Connection: close" in answer[:200]:
                self._transport.close()

    def _reset(self) -> None:
        own = self._transport.get_extra_info("socket")
        own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.close()

    def _tick(self, number: int) -> None:
        self._transport.write(chunks([chat_event({"content": f"{number} "})], end=b""))
        self._timer = asyncio.get_running_loop().call_later(TICK, self._tick, number + 1)


async def serve(host: str, port: int) -> None:
    """Serve until the process is ended."""
    # llama.cpp's HTTP library shares ports, too, so that two servers on one port divide its connections.
    server = await asyncio.get_running_loop().create_server(Connection, host, port, reuse_port=True)
    print(f"listening on {server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def main() -> None:
    """Serve, under a name; `--flood-log BYTES` writes so much to the log first, without a newline."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--flood-log", type=int, default=0)
    parser.add_argument("--name", default="")
    parser.add_argument("--version", action="version", version="version: 11549 (stand-in)")
    options, _ = parser.parse_known_args()
    Connection.name = options.name
    line = b"load_tensors: CUDA0 model buffer size = " * 100
    for _ in range(options.flood_log // len(line)):
        print(line.decode(), end="")
    asyncio.run(serve(options.host, options.port))


if __name__ == "__main__":
    main()
