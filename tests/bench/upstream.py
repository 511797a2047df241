"""A stand-in for llama-server: a token every `--interval` seconds, the text of each event is the time.

It takes llama-server's flags and ignores those it does not need, so that the gateway can run it.
"""

import argparse
import asyncio
import re
import time

import uvloop

HEAD = (
    b"HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nContent-Type: text/event-stream\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
EVENT = (
    b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":" %d"}}],'
    b'"created":1700000000,"id":"chatcmpl-abcdefghijklmnopqrstuvwxyz","model":"bench","system_fingerprint":"b1-x",'
    b'"object":"chat.completion.chunk"}\n\n'
)
LAST = (
    b'data: {"choices":[{"finish_reason":"stop","index":0,"delta":{}}],"created":1700000000,'
    b'"id":"chatcmpl-a","model":"bench","object":"chat.completion.chunk"}\n\n'
)
USAGE = (
    b'data: {"choices":[],"created":1700000000,"id":"chatcmpl-a","model":"bench",'
    b'"object":"chat.completion.chunk","usage":{"completion_tokens":%d,"prompt_tokens":9,"total_tokens":12},'
    b'"timings":{"cache_n":0,"prompt_n":9,"predicted_n":%d}}\n\n'
)
WHOLE = (
    b'{"choices":[{"finish_reason":"stop","index":0,"message":{"role":"assistant","content":" tok"}}],'
    b'"created":1700000000,"id":"chatcmpl-a","model":"bench","object":"chat.completion",'
    b'"usage":{"completion_tokens":3,"prompt_tokens":9,"total_tokens":12}}'
)
MAX_TOKENS = re.compile(rb'"max_tokens":\s?(\d+)')
STREAM = re.compile(rb'"stream":\s?true')


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class Server(asyncio.Protocol):
    """One connection; requests come one after the other."""

    interval = 0.01

    def __init__(self) -> None:
        self.buffer = b""
        self.transport: asyncio.Transport
        self.timer: asyncio.TimerHandle | None = None
        self.paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def connection_lost(self, error: Exception | None) -> None:
        if self.timer is not None:
            self.timer.cancel()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = re.search(rb"content-length:\s*(\d+)", head.lower())
        if length is not None and len(body) < int(length[1]):
            return
        self.buffer = b""
        if head.startswith(b"GET"):
            self.whole(b'{"status":"ok"}')
        elif not STREAM.search(body):
            self.whole(WHOLE)
        else:
            tokens = MAX_TOKENS.search(body)
            self.stream(int(tokens[1]) if tokens else 3)

    def whole(self, body: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        self.transport.write(head % len(body) + body)

    def stream(self, tokens: int) -> None:
        end = chunk(LAST) + chunk(USAGE % (tokens, tokens)) + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
        if tokens < 10:
            events = b"".join(chunk(EVENT % time.monotonic_ns()) for _ in range(tokens))
            self.transport.write(HEAD + events + end)
            return
        self.transport.write(HEAD)
        loop = asyncio.get_running_loop()
        started = loop.time()

        def send(number: int) -> None:
            if number == tokens:
                self.transport.write(end)
                return
            self.transport.write(chunk(EVENT % time.monotonic_ns()))
            self.timer = loop.call_at(started + (number + 1) * self.interval, send, number + 1)

        send(0)


async def serve(host: str, port: int) -> None:
    """Serve for ever."""
    server = await asyncio.get_running_loop().create_server(Server, host, port, backlog=4096)
    await server.serve_forever()


def main() -> None:
    """Read the flags and serve."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--interval", type=float, default=0.01)
    options, _ = parser.parse_known_args()
    Server.interval = options.interval
    uvloop.run(serve(options.host, options.port))


if __name__ == "__main__":
    main()
