"""Documents are read in a child process: hostile ones cost it time and memory, and the gateway neither.

`python -m agents.rag.reading.reader` takes requests on its standard input and answers each; both are
msgpack behind four bytes of length, and a request is followed by its document. It ends when its input does.
"""

import asyncio
import os
import signal
import sys
from contextlib import suppress
from math import ceil
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import msgspec

from actors.runtime import spawn
from agents.rag.reading.chunks import Chunk, Sizes, chunk
from agents.rag.reading.documents import DocumentLimits, Kind, parse
from agents.rag.reading.formats.structure import DocumentError, PassingError

OUT_OF_TIME = getattr(signal, "SIGXCPU", 0)
KILLED = getattr(signal, "SIGKILL", 0)
"""By the system when it has no memory left, which need not be the document's fault."""

CHECKOUT = Path(__file__).resolve().parents[3]
_LENGTH = 4
_PIECE = 2**18
"""Bytes of a document that are handed on at a time: the pipe copies what it cannot write at once."""


class Reading(msgspec.Struct, frozen=True):
    """A document that was read."""

    kind: Kind
    title: str
    chunks: list[Chunk]


class _Request(msgspec.Struct, frozen=True):
    name: str
    media_type: str
    size: int
    limits: DocumentLimits
    sizes: Sizes


class _Answer(msgspec.Struct, frozen=True):
    """`refused`: why there is no reading."""

    reading: Reading | None = None
    refused: str = ""


class Reader:
    """One child, started when it is needed and again after it died. `async with`; one document at a time.

    `timeout`: seconds of CPU that a document may take; `patience`: seconds by the clock, which on a busy
    machine are many more; `memory`: bytes of address space. CPU and memory are bound where the system can.
    """

    def __init__(
        self,
        limits: DocumentLimits | None = None,
        sizes: Sizes | None = None,
        *,
        timeout: float = 60.0,
        patience: float = 900.0,
        memory: int = 2 * 2**30,
    ) -> None:
        self._limits = limits or DocumentLimits()
        self._sizes = sizes or Sizes()
        self._timeout = timeout
        self._patience = patience
        self._memory = memory
        self._child: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    async def read(self, data: bytes, name: str, media_type: str = "") -> Reading:
        """Parse and chunk. Raises `DocumentError`, also for what takes too much memory.

        `PassingError`: it took too long, or its process was ended by somebody else.
        """
        if len(data) > self._limits.bytes:
            raise DocumentError(f"{name} has {len(data)} bytes, more than the {self._limits.bytes} allowed")
        request = msgspec.msgpack.encode(_Request(name, media_type, len(data), self._limits, self._sizes))
        try:
            async with asyncio.timeout(self._patience):
                answer = await self._ask(request, data)
        except TimeoutError:
            await self._end()
            raise PassingError(f"{name} could not be read within {self._patience:g} s") from None
        except (OSError, asyncio.IncompleteReadError):
            status = await self._end()
            if status == -OUT_OF_TIME:
                raise PassingError(f"{name} takes more than {self._timeout:g} s of CPU to read") from None
            error = PassingError if status == -KILLED else DocumentError
            raise error(f"{name} ended the process that read it ({_ending(status)})") from None
        except asyncio.CancelledError:
            await self._end()  # or its answer would be taken for the next one's
            raise
        if answer.reading is None:
            raise DocumentError(answer.refused)
        return answer.reading

    async def _ask(self, request: bytes, data: bytes) -> _Answer:
        child = self._child
        if child is None:
            child = self._child = await asyncio.create_subprocess_exec(
                *(
                    sys.executable,
                    "-m",
                    "agents.rag.reading.reader",
                    str(ceil(self._timeout)),
                    str(self._memory),
                ),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                cwd=CHECKOUT,
            )
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(len(request).to_bytes(_LENGTH) + request)
        whole = memoryview(data)
        for start in range(0, len(data), _PIECE):
            child.stdin.write(whole[start : start + _PIECE])
            await child.stdin.drain()
        length = int.from_bytes(await child.stdout.readexactly(_LENGTH))
        return msgspec.msgpack.decode(await child.stdout.readexactly(length), type=_Answer)

    async def _end(self) -> int | None:
        """Kill the child, if there is one; return its exit status."""
        child, self._child = self._child, None
        if child is None:
            return None
        ending = spawn(_end(child), name="end of a document reader")
        try:
            await asyncio.wait([ending])
        except asyncio.CancelledError:
            await asyncio.wait([ending])  # soon, since the child is killed
            raise
        return ending.result()


async def _end(child: asyncio.subprocess.Process) -> int:
    status = child.returncode
    assert child.stdin is not None
    assert child.stdout is not None
    if status is None:
        # One that died by itself is asked for how; any other is busy with what nobody wants.
        if not child.stdout.at_eof():
            with suppress(ProcessLookupError):
                child.kill()
        status = await child.wait()
    child.stdin.close()
    with suppress(OSError):
        await child.stdin.wait_closed()
    await child.stdout.read()  # asyncio closes its transport when it has seen the end of this pipe
    return status


def _ending(status: int | None) -> str:
    if status is None or status >= 0:
        return f"status {status}"
    return f"killed by {signal.Signals(-status).name}"


def main() -> None:
    """Answer until the input ends. Arguments: what a document may take, in seconds of CPU and in bytes."""
    seconds, memory = map(int, sys.argv[1:])
    if sys.platform != "win32":
        os.nice(5)  # whoever waits for tokens comes first
    source, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no answer
    while head := source.read(_LENGTH):
        _limit(seconds, memory)
        body = msgspec.msgpack.encode(_answer(source, int.from_bytes(head)))
        answers.write(len(body).to_bytes(_LENGTH) + body)
        answers.flush()


def _answer(source: BinaryIO, length: int) -> _Answer:
    request = msgspec.msgpack.decode(source.read(length), type=_Request)
    data = source.read(request.size)
    try:
        document = parse(data, request.name, request.media_type, request.limits)
        chunks = chunk(document.text, document.blocks, request.sizes)
        return _Answer(Reading(document.kind, document.title, chunks))
    except DocumentError as error:
        return _Answer(refused=str(error))
    except MemoryError:
        return _Answer(refused=f"{request.name} takes more memory to read than is allowed")
    except Exception as error:  # the boundary of a document: the next one is another
        return _Answer(refused=f"{request.name} cannot be read: {type(error).__name__}: {error}")


def _limit(seconds: int, memory: int) -> None:
    """Bound what the next document may cost."""
    if sys.platform == "win32":
        return
    import resource  # noqa: PLC0415 (absent on Windows)

    used = resource.getrusage(resource.RUSAGE_SELF)
    most = int(used.ru_utime + used.ru_stime) + seconds + 1
    resource.setrlimit(resource.RLIMIT_CPU, (most, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    with suppress(ValueError, OSError):  # not every system can bound it
        resource.setrlimit(resource.RLIMIT_AS, (memory, resource.getrlimit(resource.RLIMIT_AS)[1]))


if __name__ == "__main__":
    main()
