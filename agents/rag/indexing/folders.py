"""Finds and reads the documents of a folder. Blocking."""

import errno
import os
import stat
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from agents.rag.reading.documents import kind_of_name
from agents.rag.reading.formats.structure import DocumentError, PassingError, clean

SKIPPED = frozenset(("__pycache__", "node_modules"))
"""Folders of third-party files, which are skipped like hidden ones."""


class File(msgspec.Struct, frozen=True):
    """A file of a folder. `name`: its path in the folder, with slashes; `size` in bytes."""

    name: str
    path: Path
    size: int
    mtime_ns: int


class FolderListing(msgspec.Struct, frozen=True):
    """The documents of a folder by name, its subfolders, and the paths that could not be read."""

    files: dict[str, File]
    unreadable: tuple[str, ...]
    folders: frozenset[str] = frozenset()

    def hides(self, name: str) -> bool:
        """Whether a file of this name may exist in a path that could not be read."""
        return any(name == one or name.startswith(f"{one}/") for one in self.unreadable)


def list_folder(folder: Path, patterns: Sequence[str] = ()) -> FolderListing:
    """List a folder's documents, sorted by name. Raises `DocumentError` if the folder cannot be read.

    `patterns` are shell patterns for names, or for paths in the folder if they contain a slash; those that
    begin with "!" exclude. Without including patterns, files with a known suffix are documents. Hidden
    files, and links that lead out of the folder, are skipped.
    """
    unreadable: list[str] = []

    def note(error: OSError) -> None:
        if error.filename == str(folder):
            raise error
        unreadable.append(clean(Path(error.filename or folder).relative_to(folder).as_posix()))

    try:
        files, folders = _walk(folder, patterns, note)
    except OSError as error:
        raise DocumentError(f"folder {folder} cannot be read: {error.strerror}") from error
    return FolderListing(files, tuple(unreadable), folders)


def _walk(
    folder: Path, patterns: Sequence[str], note: Callable[[OSError], None]
) -> tuple[dict[str, File], frozenset[str]]:
    root = folder.resolve(strict=True)
    files: dict[str, File] = {}
    seen: set[str] = set()
    for where, folders, names in os.walk(folder, onerror=note):
        seen.add(clean(Path(where).relative_to(folder).as_posix()))
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in SKIPPED)
        for file_name in sorted(names):
            path = Path(where, file_name)
            name = clean(path.relative_to(folder).as_posix())  # names on a disk may contain any bytes
            if file_name.startswith(".") or not _matches(name, patterns):
                continue
            try:
                status = path.stat()
                inside = not path.is_symlink() or path.resolve().is_relative_to(root)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ELOOP):  # deleted meanwhile, or a dangling link
                    note(OSError(error.errno, error.strerror, str(path)))
                continue
            if stat.S_ISREG(status.st_mode) and inside:
                files[name] = File(name, path, status.st_size, status.st_mtime_ns)
    return files, frozenset(seen)


def read_file(file: File, limit: int) -> bytes:
    """Read a file's bytes. Raises `DocumentError` if it is larger than `limit` or cannot be read."""
    too_large = DocumentError(f"{file.name} is larger than the {limit} bytes allowed")
    if file.size > limit:
        raise too_large
    try:
        with file.path.open("rb") as opened:
            data = opened.read(limit + 1)
    except OSError as error:
        raise PassingError(f"{file.name} cannot be read: {error.strerror}") from error
    if len(data) > limit:
        raise too_large
    return data


def _matches(name: str, patterns: Sequence[str]) -> bool:
    excluded = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    included = [pattern for pattern in patterns if not pattern.startswith("!")]
    if any(_match(name, pattern) for pattern in excluded):
        return False
    return any(_match(name, pattern) for pattern in included) if included else kind_of_name(name) is not None


def _match(name: str, pattern: str) -> bool:
    return fnmatchcase(name if "/" in pattern else name.rpartition("/")[2], pattern)
