"""The program's own folders, and checks whether folders can be written to."""

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec


class Unwritable(msgspec.Struct, frozen=True, kw_only=True):
    """A folder that cannot be written to, and who needs it."""

    folder: str
    reason: str
    cure: str
    needed_for: list[str]


def unwritable(folders: Iterable[tuple[str, Path]]) -> list[Unwritable]:
    """Return those of `folders` (purpose and path) that cannot be written to. No folder is created.

    A missing folder is reported by the folder in which it would be created; each folder is reported once.
    """
    found: dict[str, list[str]] = {}
    for needed_for, folder in folders:
        there = nearest_folder(folder.absolute())
        if not (os.path.isdir(there) and os.access(there, os.W_OK | os.X_OK)):  # noqa: PTH112 (it raises nothing)
            found.setdefault(there, []).append(needed_for)
    return [_explain(folder, needed_for) for folder, needed_for in found.items()]


def nearest_folder(folder: Path) -> str:
    """Return the folder, or its deepest parent that exists. Blocking."""
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
    except OSError as error:  # a dangling link, for example
        reason, cure = error.strerror or str(error), "make or mount it"
    return Unwritable(folder=folder, reason=reason, cure=cure, needed_for=needed_for)


def cache_folder() -> Path:
    """Return the folder of built-in models and of measured loads."""
    return _home("XDG_CACHE_HOME", "~/.cache")


def data_folder(agent_data: str | None) -> Path:
    """Return the folder of all agents' folders: `agent_data`, or one in the user's data folder."""
    return _home("XDG_DATA_HOME", "~/.local/share") / "agents" if agent_data is None else Path(agent_data)


def responses_file() -> Path:
    """Return the database of kept responses, in the user's data folder."""
    return _home("XDG_DATA_HOME", "~/.local/share") / "responses.sqlite3"


def prompts_folder(port: int | None = None) -> Path:
    """Return the folder of the saved prompts of a gateway, by its port, or of all gateways."""
    folder = _home("XDG_CACHE_HOME", "~/.cache") / "prompts"
    return folder if port is None else folder / str(port)


def keys_file() -> Path:
    """Return the database of API keys, in the user's data folder."""
    return _home("XDG_DATA_HOME", "~/.local/share") / "keys.sqlite3"


def usage_file() -> Path:
    """Return the ledger of usage, in the user's data folder."""
    return _home("XDG_DATA_HOME", "~/.local/share") / "usage.sqlite3"


def captures_folder() -> Path:
    """Return the folder of captured requests, in the user's data folder."""
    return _home("XDG_DATA_HOME", "~/.local/share") / "captures"


def _home(variable: str, default: str) -> Path:
    base = os.environ.get(variable) or Path(default).expanduser()
    return Path(base) / "llama-smart-proxy"
