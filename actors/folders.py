"""The program's own folders, and of any that must be written to: whether they can be, and what cures it."""

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec


class Unwritable(msgspec.Struct, frozen=True, kw_only=True):
    """A folder in which nothing can be made. `needed_for` says by whom."""

    folder: str
    reason: str
    cure: str
    needed_for: list[str]


def unwritable(folders: Iterable[tuple[str, Path]]) -> list[Unwritable]:
    """Those of `folders` (who needs it, and which) that cannot be written to. None is made here.

    Of one that is not there yet, the folder in which it would have to be made is told; each is told once.
    """
    found: dict[str, list[str]] = {}
    for needed_for, folder in folders:
        there = _nearest(folder.absolute())
        if not (os.path.isdir(there) and os.access(there, os.W_OK | os.X_OK)):  # noqa: PTH112 (it raises nothing)
            found.setdefault(there, []).append(needed_for)
    return [_explain(folder, needed_for) for folder, needed_for in found.items()]


def _nearest(folder: Path) -> str:
    """The folder, or else the deepest above it that is there."""
    return str(next((one for one in (folder, *folder.parents) if os.path.lexists(one)), folder))


def _explain(folder: str, needed_for: list[str]) -> Unwritable:
    user, group = os.geteuid(), os.getegid()
    try:
        owner = Path(folder).stat()
        if not Path(folder).is_dir():
            reason, cure = "it is no folder", f"move {folder} away"
        elif os.statvfs(folder).f_flag & os.ST_RDONLY:
            reason, cure = "it is mounted read-only", "mount it read-write"
        else:
            mode = f"{owner.st_mode & 0o7777:04o}"
            reason = f"it belongs to uid {owner.st_uid} (mode {mode}), and this process is uid {user}"
            cure = f"as root: chown -R {user}:{group} {folder}"
    except OSError as error:  # a link that leads nowhere, for one
        reason, cure = error.strerror or str(error), "make or mount it"
    return Unwritable(folder=folder, reason=reason, cure=cure, needed_for=needed_for)


def cache_folder() -> Path:
    """Where built-in models are, and what was learned of loads."""
    return _home("XDG_CACHE_HOME", "~/.cache")


def data_folder(agent_data: str | None) -> Path:
    """Where each agent has a folder of its own, of its name: `agent_data`, or the user's data folder."""
    return _home("XDG_DATA_HOME", "~/.local/share") / "agents" if agent_data is None else Path(agent_data)


def _home(variable: str, default: str) -> Path:
    base = os.environ.get(variable) or Path(default).expanduser()
    return Path(base) / "llama-smart-proxy"
