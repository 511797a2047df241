"""Downloads one file over HTTP without losing any bytes that have arrived.

Bytes are appended to `<target>.incomplete`. After a cut connection, a 503, a full disk or a kill the next
attempt continues from there by Range. The file gets its own name only when its length and sha256 are those
that the hub announced. huggingface_hub's own download is not used, because it starts from zero after a kill
(measured with 2.4.0).
"""

import asyncio
import errno
import hashlib
import os
import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import aiohttp
import msgspec
import structlog
from filelock import FileLock, Timeout

from actors.config.masking import mask_text
from actors.errors import Failure, FailureKind
from actors.terminal import printable, program

log = structlog.get_logger("hub")

CHUNK = 1 << 20
TRIES = 6
"""Most attempts in a row without a byte of progress."""
SILENCE_LIMIT = 30.0
"""Seconds without a byte after which a connection is abandoned."""
REASON_LIMIT = 300
"""Most characters of a hub's error message that are passed on."""
LOCK_POLL = 0.25
RETRY_LATER = frozenset({408, 425, 429, 500, 502, 503, 504})

_KINDS: dict[int, FailureKind] = {401: "forbidden", 403: "forbidden", 404: "not_found"}

T = TypeVar("T")

OnBytes = Callable[[int], None]
"""Called with the number of bytes of the file that have arrived."""


class HubError(Exception):
    """A model could not be fetched from the hub. Carries the `Failure`."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def failed(message: str, *, retryable: bool = True, kind: FailureKind = "failed") -> HubError:
    """Make an error with this message, with passwords in addresses removed."""
    return HubError(Failure(message=mask_text(message), retryable=retryable, kind=kind))


class DownloadSource(msgspec.Struct, frozen=True, kw_only=True):
    """The address of a file, its bytes, and its sha256 in hexadecimal if the hub announced it."""

    url: str
    headers: Mapping[str, str]
    size: int
    sha256: str | None


class _InterruptedError(Exception):
    """The transfer stopped early and may be resumed. `pause`: the seconds to wait that the hub asked for."""

    def __init__(self, reason: str, pause: float | None = None) -> None:
        super().__init__(reason)
        self.pause = pause


def download_session() -> aiohttp.ClientSession:
    """Open a session that uses the environment's proxies, as huggingface_hub does."""
    return aiohttp.ClientSession(trust_env=True)


async def download(
    session: aiohttp.ClientSession,
    source: DownloadSource,
    target: Path,
    *,
    lock: Path,
    on_bytes: OnBytes,
    retry_delay: float = 1.0,
) -> None:
    """Download the file to `target`. Raises `HubError`, which says what failed and how much was kept.

    If several processes want the same file, one downloads it and the others wait.
    """
    await asyncio.to_thread(_make_folders, lock.parent, target.parent)
    incomplete = target.with_name(target.name + ".incomplete")
    holder = FileLock(lock, thread_local=False)
    try:
        while not await _in_thread(_acquire, holder):
            on_bytes(await asyncio.to_thread(_size_of, incomplete))
            await asyncio.sleep(LOCK_POLL)
        if not await asyncio.to_thread(target.exists):
            await _Transfer(session, source, incomplete, on_bytes, retry_delay).run()
            await asyncio.to_thread(incomplete.replace, target)
        on_bytes(source.size)
    finally:
        if holder.is_locked:
            await _in_thread(holder.release)


def _acquire(lock: FileLock) -> bool:
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    return True


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _make_folders(*folders: Path) -> None:
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)


async def _in_thread(work: Callable[..., T], *arguments: object) -> T:
    """Run in a thread. Even a cancelled caller waits, because the thread uses the caller's open file."""
    future = asyncio.get_running_loop().run_in_executor(None, work, *arguments)
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        future.exception()  # retrieved, so that asyncio does not log it
        raise cancelled
    return future.result()


class _Transfer:
    """Writes the partial file. Its hash is updated as bytes arrive, so that nothing is read twice."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        source: DownloadSource,
        partial: Path,
        on_bytes: OnBytes,
        retry_delay: float,
    ) -> None:
        self._session = session
        self._source = source
        self._shown = mask_text(source.url)
        self._partial = partial
        self._on_bytes = on_bytes
        self._retry_delay = retry_delay
        self._have = 0
        self._hash = hashlib.sha256()
        self._descriptor = -1

    async def run(self) -> None:
        self._have = await asyncio.to_thread(self._hash_what_is_there)
        self._on_bytes(self._have)
        if self._have:
            log.info("download resumes", url=self._shown, at=self._have, size=self._source.size)
        await asyncio.to_thread(self._check_space)
        try:
            await _in_thread(self._open)
            await self._fill()
            await _in_thread(os.fsync, self._descriptor)
        finally:
            if self._descriptor >= 0:
                await _in_thread(os.close, self._descriptor)
        if self._source.sha256 is not None and self._hash.hexdigest() != self._source.sha256:
            await asyncio.to_thread(self._partial.unlink)
            came, announced = self._hash.hexdigest(), self._source.sha256
            message = (
                f"the sha256 of what came is {came}, but the hub announced {announced}; it was discarded"
            )
            raise failed(f"{self._source.url}: {message}")

    async def _fill(self) -> None:
        tries = 0
        while self._have < self._source.size:
            before = self._have
            try:
                await self._attempt()
            except (_InterruptedError, aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                tries = 1 if self._have > before else tries + 1
                reason = printable(str(error))[:REASON_LIMIT] or type(error).__name__
                if tries >= TRIES:
                    kept = f"{self._have:,} of {self._source.size:,} bytes are kept"
                    raise failed(
                        f"{self._source.url}: {reason}; {kept}, and the next try goes on there"
                    ) from error
                pause = min(self._retry_delay * 2 ** (tries - 1), 30.0) * random.uniform(0.75, 1.25)
                if isinstance(error, _InterruptedError) and error.pause is not None:
                    pause = min(max(pause, error.pause), 120.0)
                log.warning(
                    "download interrupted",
                    url=self._shown,
                    reason=reason,
                    at=self._have,
                    pause=pause,
                )
                await asyncio.sleep(pause)

    async def _attempt(self) -> None:
        headers = {**self._source.headers, "Accept-Encoding": "identity"}
        if self._have:
            headers["Range"] = f"bytes={self._have}-"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE_LIMIT, sock_read=SILENCE_LIMIT)
        async with self._session.get(self._source.url, headers=headers, timeout=timeout) as response:
            await self._check_head(response)
            async for piece in response.content.iter_chunked(CHUNK):
                if self._have + len(piece) > self._source.size:
                    size = f"more than the {self._source.size:,} bytes that the hub announced"
                    await _in_thread(self._start_again)
                    raise failed(f"{self._source.url}: {size} came; they were discarded")
                await _in_thread(self._write, piece)
                self._on_bytes(self._have)
        if self._have < self._source.size:
            raise _InterruptedError("the connection was closed early")

    async def _check_head(self, response: aiohttp.ClientResponse) -> None:
        status = response.status
        if status in RETRY_LATER:
            pause = response.headers.get("Retry-After", "")
            raise _InterruptedError(f"status {status}", float(pause) if pause.isdecimal() else None)
        if status == 416 or (status == 206 and not self._goes_on(response.headers.get("Content-Range", ""))):
            await _in_thread(self._start_again)
            raise _InterruptedError("the server's range is not the one asked for")
        if status == 200 and self._have:
            log.warning("download starts again: the server takes no ranges", url=self._shown)
            await _in_thread(self._start_again)
        elif status not in (200, 206):
            message = response.headers.get("X-Error-Message") or response.reason or ""
            reason = printable(message)[:REASON_LIMIT]
            kind = _KINDS.get(status, "failed")
            message = f"{self._source.url}: status {status}: {reason}"
            raise failed(message, retryable=False, kind=kind)

    def _goes_on(self, content_range: str) -> bool:
        return content_range == f"bytes {self._have}-{self._source.size - 1}/{self._source.size}"

    # Run in threads

    def _open(self) -> None:
        self._descriptor = os.open(self._partial, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

    def _hash_what_is_there(self) -> int:
        have = 0
        self._hash = hashlib.sha256()
        if (size := _size_of(self._partial)) > self._source.size:
            self._partial.unlink()
        elif size:
            with self._partial.open("rb", buffering=0) as file:
                while piece := file.read(4 * CHUNK):
                    self._hash.update(piece)
                    have += len(piece)
        return have

    def _start_again(self) -> None:
        os.ftruncate(self._descriptor, 0)
        self._have = 0
        self._hash = hashlib.sha256()

    def _write(self, piece: bytes) -> None:
        view = memoryview(piece)
        while view:
            try:
                written = os.write(self._descriptor, view)
            except OSError as error:
                raise self._disk_failed(error) from error
            self._hash.update(view[:written])
            self._have += written
            view = view[written:]

    def _check_space(self) -> None:
        needed, free = self._source.size - self._have, shutil.disk_usage(self._partial.parent).free
        if needed > free:
            raise failed(
                f"the disk of {self._partial.parent} has {free:,} bytes free, and {needed:,} more are needed "
                f"(`{program()} rm NAME` frees some)"
            )

    def _disk_failed(self, error: OSError) -> HubError:
        kept = f"{self._have:,} of {self._source.size:,} bytes are kept, and the next try goes on there"
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "is full" if full else f"cannot be written: {error.strerror}"
        return failed(f"the disk of {self._partial.parent} {what}; {kept}")
