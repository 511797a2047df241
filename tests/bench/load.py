"""The load: `python -m tests.bench.load stream|short PORT ...` prints one line of JSON."""

import argparse
import asyncio
import json
import re
import time

import uvloop

SENT_AT = re.compile(rb'"content":" (\d+)"')
PATHS = {"openai": b"/v1/chat/completions", "ollama": b"/api/chat"}
LAST = {"openai": b"[DONE]", "ollama": b'"done":true'}


def request(tokens: int, *, stream: bool, api: str = "openai", agents: str = "") -> bytes:
    """A chat request, with these agents."""
    limit = {"max_tokens": tokens} if api == "openai" else {"options": {"num_predict": tokens}}
    body = json.dumps(
        {"model": "bench", "stream": stream, **limit, "messages": [{"role": "user", "content": "hello"}]},
        separators=(",", ":"),
    ).encode()
    head = b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" % PATHS[api]
    if agents:
        head += b"X-Agents: %b\r\n" % agents.encode()
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


class Stream(asyncio.Protocol):
    """One streamed answer; notes how long each event was on its way."""

    def __init__(self, message: bytes, last: bytes, done: "asyncio.Future[bool]") -> None:
        self.message = message
        self.last = last
        self.done = done
        self.delays: list[int] = []
        self.first: int | None = None
        self.tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.began = time.monotonic_ns()
        self.transport.write(self.message)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        if self.first is None:
            self.first = now - self.began
        self.delays += [now - int(sent) for sent in SENT_AT.findall(data)]
        self.tail = self.tail[-32:] + data
        if self.last in self.tail and not self.done.done():
            self.done.set_result(True)
            self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(False)


class Short(asyncio.Protocol):
    """Whole answers one after the other on one connection."""

    def __init__(self, message: bytes, until: float, done: "asyncio.Future[bool]") -> None:
        self.message = message
        self.until = until
        self.done = done
        self.count = 0
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.transport.write(self.message)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = re.search(rb"content-length: (\d+)", head.lower())
        if length is None or len(body) < int(length[1]):
            return
        self.buffer = b""
        self.count += head.startswith(b"HTTP/1.1 200")
        if time.monotonic() < self.until:
            self.transport.write(self.message)
        elif not self.done.done():
            self.done.set_result(True)
            self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(False)


async def streams(port: int, count: int, tokens: int, api: str, agents: str) -> dict[str, float]:
    """`count` streams at once; delays in microseconds."""
    loop = asyncio.get_running_loop()
    clients: list[Stream] = []
    message = request(tokens, stream=True, api=api, agents=agents)
    began = time.monotonic()
    for _ in range(count):
        client = Stream(message, LAST[api], loop.create_future())
        clients.append(client)
        await loop.create_connection(lambda client=client: client, "127.0.0.1", port)  # type: ignore[misc]
    finished = [await client.done for client in clients]
    delays = sorted(delay for client in clients for delay in client.delays)
    firsts = sorted(client.first or 0 for client in clients)
    return {
        "finished": sum(finished),
        "events": len(delays),
        "seconds": time.monotonic() - began,
        "p50_us": delays[len(delays) // 2] / 1000 if delays else 0,
        "p99_us": delays[len(delays) * 99 // 100] / 1000 if delays else 0,
        "first_p50_us": firsts[len(firsts) // 2] / 1000,
    }


async def shorts(port: int, connections: int, seconds: float) -> dict[str, float]:
    """Short whole answers for some seconds."""
    loop = asyncio.get_running_loop()
    message = request(3, stream=False)
    began = time.monotonic()
    clients = [Short(message, began + seconds, loop.create_future()) for _ in range(connections)]
    for client in clients:
        await loop.create_connection(lambda client=client: client, "127.0.0.1", port)  # type: ignore[misc]
    for client in clients:
        await client.done
    return {"requests": sum(client.count for client in clients), "seconds": time.monotonic() - began}


def main() -> None:
    """Run one kind of load and print what was seen."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("stream", "short"))
    parser.add_argument("port", type=int)
    parser.add_argument("--connections", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=500)
    parser.add_argument("--agents", default="")
    parser.add_argument("--api", choices=sorted(PATHS), default="openai")
    parser.add_argument("--seconds", type=float, default=5)
    options = parser.parse_args()
    if options.kind == "stream":
        seen = uvloop.run(
            streams(options.port, options.connections, options.tokens, options.api, options.agents)
        )
    else:
        seen = uvloop.run(shorts(options.port, options.connections, options.seconds))
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
