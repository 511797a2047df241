"""Which files of a folder are documents, and what is in them. Blocking."""

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
"""Folders of what others wrote, beside all that begin with a dot."""


class File(msgspec.Struct, frozen=True):
    """A file of a folder. `name`: its path below the folder, with slashes; `size` in bytes."""

    name: str
    path: Path
    size: int
    mtime_ns: int


class FolderListing(msgspec.Struct, frozen=True):
    """The documents of a folder by name, the folders below it, and what below it could not be looked at."""

    files: dict[str, File]
    unreadable: tuple[str, ...]
    folders: frozenset[str] = frozenset()

    def hides(self, name: str) -> bool:
        """A file of this name may be there, and could not be seen."""
        return any(name == one or name.startswith(f"{one}/") for one in self.unreadable)


def list_folder(folder: Path, patterns: Sequence[str] = ()) -> FolderListing:
    """The folder's documents, in order of their names. Raises `DocumentError` for one that cannot be read.

    `patterns` are shell patterns for names, or for paths below the folder if they have a slash in them; those
    that begin with "!" exclude. Without any that include, files are documents whose format their name tells.
    What is hidden is not looked at, nor what a link leads to outside of the folder.
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
            name = clean(path.relative_to(folder).as_posix())  # names on a disk may be any bytes
            if file_name.startswith(".") or not _matches(name, patterns):
                continue
            try:
                status = path.stat()
                inside = not path.is_symlink() or path.resolve().is_relative_to(root)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ELOOP):  # gone since, or a link to nothing
                    note(OSError(error.errno, error.strerror, str(path)))
                continue
            if stat.S_ISREG(status.st_mode) and inside:
                files[name] = File(name, path, status.st_size, status.st_mtime_ns)
    return files, frozenset(seen)


def read_file(file: File, limit: int) -> bytes:
    """Its bytes. Raises `DocumentError` for more than `limit`, and for what cannot be read."""
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
