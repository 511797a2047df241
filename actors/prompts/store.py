"""The folder of saved prompts: for each one a file that llama-server wrote, and its entry as JSON.

A prompt exists only once its entry does, which is written last. What a crash leaves behind is removed when
the folder is opened again; files of other names are not touched. Methods block, and may be called from any
thread.
"""

import hashlib
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import msgspec
import structlog
from filelock import FileLock, Timeout

from actors.prompts.chain import Chain
from actors.prompts.economics import chance

log = structlog.get_logger("prompts")

SPARE = 1 << 30
"""Bytes of the disk that are left to others."""
FORMAT = 1
"""Version of the entries. Those of another version are removed."""

_OURS = re.compile(r"(?P<id>[0-9a-f]{32})\.(?P<kind>prompt|json|part|new)")
_LOCK = "lock"


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A saved prompt.

    `identity`: of the servers that may use it; `client`: the name of the key whose it is. `tokens`: of
    prompt and answer; `prompt`: of the prompt. `pace`: seconds that the server took to read a token. `size`
    in bytes, `digest`: SHA-256 of the file. Times are UNIX times; `spared`: seconds that restoring it has
    spared.
    """

    format: int = FORMAT
    id: str
    identity: str
    model: str
    client: str
    chain: Chain
    tokens: int
    prompt: int
    turns: int
    pace: float
    size: int
    digest: str
    saved_at: float
    used_at: float
    hits: int = 0
    spared: float = 0.0

    def worth(self, now: float) -> float:
        """The seconds for each byte that keeping it is expected to spare."""
        turns = self.turns + self.hits
        return self.tokens * self.pace * chance(turns, now - self.used_at) / max(1, self.size)


class StoreError(Exception):
    """The folder, or a file in it, cannot be used. The message says why."""


class Store:
    """The saved prompts in one folder, of one gateway. `budget`: most bytes; `keep`: seconds."""

    def __init__(
        self,
        folder: Path,
        budget: int,
        keep: float,
        clock: Callable[[], float] = time.time,
        *,
        free: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
    ) -> None:
        self.folder = folder
        self.budget = budget
        self.keep = keep
        self._clock = clock
        self._free = free
        self._entries: dict[str, Entry] = {}
        self._guard = threading.Lock()
        self._lock = FileLock(str(folder / _LOCK), mode=0o600, thread_local=False)

    def open(self) -> None:
        """Lock the folder, and read what is in it. Raises `StoreError`."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder.chmod(0o700)
            self._lock.acquire(blocking=False)
        except Timeout:
            raise StoreError(f"another gateway keeps its prompts in {self.folder}") from None
        except OSError as error:
            raise StoreError(f"{self.folder}: {error.strerror or error}") from error
        try:
            found = read_entries(self.folder)
            self._entries = {entry.id: entry for entry in found}
            self._sweep()
            self.trim()
        except OSError as error:
            self.close()
            raise StoreError(f"{self.folder}: {error.strerror or error}") from error

    def close(self) -> None:
        """Unlock the folder."""
        self._lock.release()

    def _sweep(self) -> None:
        """Remove the files of ours that belong to no entry."""
        for path in list(self.folder.iterdir()):
            match = _OURS.fullmatch(path.name)
            if match is None:
                continue
            whole = match["kind"] in ("prompt", "json") and match["id"] in self._entries
            if not whole:
                path.unlink(missing_ok=True)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The saved prompts, in no order."""
        with self._guard:
            return tuple(self._entries.values())

    @property
    def size(self) -> int:
        """The bytes of all saved prompts."""
        return sum(entry.size for entry in self.entries)

    def find(self, identity: str, client: str, chain: Chain) -> list[tuple[Entry, float]]:
        """Return the prompts that this one begins with, and how many of their tokens; the longest first.

        Only those of the same client, for the same kind of server.
        """
        found = []
        for entry in self.entries:
            if entry.identity == identity and entry.client == client:
                whole = chain.extends(entry.chain)
                tokens = float(entry.tokens) if whole else chain.shared(entry.chain) * entry.prompt
                if tokens:
                    found.append((entry, tokens))
        return sorted(found, key=lambda one: (one[1], one[0].saved_at), reverse=True)

    def begin(self, size: int) -> str | None:
        """Make room for a prompt of about `size` bytes; return its id, or None if there is none.

        Raises `OSError`.
        """
        if size > self.budget:
            return None
        self.trim(size)
        return secrets.token_hex(16) if self._free(self.folder) >= size + SPARE else None

    def part(self, id: str) -> Path:  # noqa: A002
        """Return the path under which a server writes a prompt."""
        return self.folder / f"{id}.part"

    def path(self, entry: Entry) -> Path:
        """Return the path of a saved prompt."""
        return self.folder / f"{entry.id}.prompt"

    def discard(self, id: str) -> None:  # noqa: A002
        """Remove what a server has written of a prompt that is not to be kept."""
        with suppress(OSError):
            self.part(id).unlink(missing_ok=True)

    def seal(self, entry: Entry) -> Entry:
        """Take over a prompt that a server has written; it replaces those of the client that it continues.

        Raises `StoreError` if its size is another one than the server said, and `OSError`.
        """
        part = self.part(entry.id)
        part.chmod(0o600)
        with part.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = os.fstat(file.fileno()).st_size
            os.fsync(file.fileno())
        if size != entry.size:
            raise StoreError(f"{size} of {entry.size} bytes were written")
        entry = msgspec.structs.replace(entry, digest=digest)
        part.replace(self.path(entry))
        self._write(entry)
        same = (entry.identity, entry.client)
        for other in self.entries:
            if (
                other.id != entry.id
                and (other.identity, other.client) == same
                and entry.chain.extends(other.chain)
            ):
                self.remove(other)
        self.trim()
        return entry

    def is_whole(self, entry: Entry) -> bool:
        """Whether the file of a prompt is as it was written. One that is not is removed."""
        try:
            with self.path(entry).open("rb") as file:
                same = os.fstat(file.fileno()).st_size == entry.size
                whole = same and hashlib.file_digest(file, "sha256").hexdigest() == entry.digest
        except OSError:
            whole = False
        if not whole:
            log.warning("saved prompt is damaged or gone", model=entry.model, file=self.path(entry).name)
            self.remove(entry)
        return whole

    def used(self, entry: Entry, spared: float) -> None:
        """Note that restoring a prompt has spared so many seconds."""
        with self._guard:
            known = self._entries.get(entry.id)
        if known is not None:
            with suppress(OSError):  # only a count is lost
                self._write(
                    msgspec.structs.replace(
                        known, used_at=self._clock(), hits=known.hits + 1, spared=known.spared + spared
                    )
                )

    def _write(self, entry: Entry) -> None:
        new = self.folder / f"{entry.id}.new"
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(entry))
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.folder / f"{entry.id}.json")
        with self._guard:
            self._entries[entry.id] = entry

    def remove(self, entry: Entry) -> None:
        """Remove a prompt. A file that cannot be removed is tried again when the folder is opened."""
        with self._guard:
            self._entries.pop(entry.id, None)
        delete(self.folder, entry)

    def trim(self, wanted: int = 0) -> None:
        """Remove prompts that are too old, and those of least worth until `wanted` bytes more have room."""
        now = self._clock()
        # Those that were removed from outside, as by `run.py prompts clear`, count no more.
        kept = []
        for entry in self.entries:
            if now - entry.used_at > self.keep or not self.path(entry).exists():
                self.remove(entry)
            else:
                kept.append(entry)
        size = sum(entry.size for entry in kept)
        short = SPARE + wanted - self._free(self.folder)
        for entry in sorted(kept, key=lambda one: one.worth(now)):
            if size + wanted <= self.budget and short <= 0:
                break
            self.remove(entry)
            size -= entry.size
            short -= entry.size


def read_entries(folder: Path) -> list[Entry]:
    """Return the whole prompts in a folder. Raises `OSError`."""
    if not folder.exists():
        return []
    return list(_entries(sorted(folder.iterdir())))


def _entries(paths: Iterable[Path]) -> Iterable[Entry]:
    for path in paths:
        match = _OURS.fullmatch(path.name)
        if match is None or match["kind"] != "json" or path.is_symlink():
            continue
        try:
            entry = msgspec.json.decode(path.read_bytes(), type=Entry)
            size = path.with_suffix(".prompt").stat().st_size
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            continue
        if entry.format == FORMAT and entry.id == match["id"] and size == entry.size:
            yield entry


def delete(folder: Path, entry: Entry) -> None:
    """Delete the files of a prompt: its entry first."""
    for kind in ("json", "prompt"):
        with suppress(OSError):
            (folder / f"{entry.id}.{kind}").unlink(missing_ok=True)
