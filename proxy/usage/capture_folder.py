"""The folder of captures: one file for each, until it is too old or there is too much. All methods block.

A file's name begins with the time of its request and ends with a digest of its id, so that names are in
order of time, and a client's id cannot be a path.
"""

import hashlib
import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from threading import Lock

import msgspec

from proxy.usage.capture import Captured

DAY = 86_400.0


class CaptureFolder:
    """The folder, with mode 0700, and its files, with mode 0600.

    Captures are deleted after `keep_days` days, and the oldest ones where all together have more than
    `most_bytes`. Both may be changed, and count from the next capture on.
    """

    def __init__(
        self, path: Path, keep_days: float, most_bytes: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._path = path
        self.keep_days = keep_days
        self.most_bytes = most_bytes
        self._clock = clock
        self._lock = Lock()
        self._files: deque[tuple[str, int]] | None = None
        """Names and sizes, the oldest first; None: not read yet."""
        self._bytes = 0

    def open(self) -> None:
        """Delete what is too old or too much. Raises `OSError`."""
        with self._lock:
            if self._path.exists():
                self._purge(self._known())

    def write(self, captured: Captured) -> None:
        """Keep a capture. Raises `OSError`."""
        name, data = _name(captured.id, captured.at), msgspec.json.encode(captured)
        with self._lock:
            self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
            files = self._known()
            part = self._path / f"{name}.part"
            try:
                with open(part, "wb", opener=_private) as file:
                    file.write(data)
                part.rename(self._path / name)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
            files.append((name, len(data)))
            self._bytes += len(data)
            self._purge(files)

    def has(self, request_id: str, at: float) -> bool:
        """Whether there is a capture of the request with this id that began at this time."""
        return (self._path / _name(request_id, at)).exists()

    def newest(self, request_id: str) -> bytes | None:
        """Return the newest capture of a request with this id, as JSON. Raises `OSError`."""
        names = sorted(one.name for one in self._path.glob(f"*-{_digest(request_id)}.json"))
        try:
            return (self._path / names[-1]).read_bytes() if names else None
        except FileNotFoundError:  # its time has come meanwhile
            return None

    def _known(self) -> "deque[tuple[str, int]]":
        if self._files is None:
            for one in self._path.glob("*.part"):  # of a gateway that was killed
                one.unlink(missing_ok=True)
            found = sorted((one.name, one.stat().st_size) for one in self._path.glob("*.json"))
            self._files, self._bytes = deque(found), sum(size for _, size in found)
        return self._files

    def _purge(self, files: "deque[tuple[str, int]]") -> None:
        oldest = _name("", self._clock() - self.keep_days * DAY)
        while files and (files[0][0] < oldest or self._bytes > self.most_bytes):
            name, size = files[0]
            (self._path / name).unlink(missing_ok=True)
            files.popleft()
            self._bytes -= size


def _name(request_id: str, at: float) -> str:
    return f"{int(at * 1e6):017d}-{_digest(request_id)}.json"


def _digest(request_id: str) -> str:
    return hashlib.sha256(request_id.encode()).hexdigest()[:32]


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
