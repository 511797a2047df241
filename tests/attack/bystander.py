"""Somebody else's stream: how long it ever stood still, beside the same stream past the gateway.

`python -m tests.attack.bystander PORT MODEL CONTROL_PORT` reads both. For each line of its standard input it
prints, as JSON, the longest pauses since the last line, in seconds. What both streams show is the machine's.
"""

import asyncio
import json
import sys
import time


class Stream:
    """One stream, and the longest time between two pieces of it."""

    def __init__(self) -> None:
        self._longest = 0.0
        self._last = time.monotonic()
        self._ended = False

    async def read(self, port: int, model: str) -> None:
        """Read until the stream ends."""
        messages = [{"role": "user", "content": "do:steady"}]
        body = json.dumps({"model": model, "messages": messages, "stream": True})
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        await reader.readuntil(b"data: ")
        self._last = time.monotonic()
        while await reader.read(65536):
            self._look()
            self._last = time.monotonic()
        self._ended = True

    def _look(self) -> None:
        self._longest = max(self._longest, time.monotonic() - self._last)

    def told(self) -> dict[str, object]:
        """What came of it so far; from now on it is measured anew."""
        self._look()
        longest, self._longest = self._longest, 0.0
        return {"longest": longest, "ended": self._ended}


async def main(port: int, model: str, control: int) -> None:
    """Read both streams; answer each line of the standard input."""
    loop = asyncio.get_running_loop()
    through, past = Stream(), Stream()
    readers = [asyncio.create_task(through.read(port, model)), asyncio.create_task(past.read(control, model))]
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while await lines.readline():
        print(json.dumps({"through": through.told(), "past": past.told()}), flush=True)
    for reader in readers:
        reader.cancel()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
