"""The main memory that this process may use, by its control groups."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from actors.placement.ledger import HostMemory

_CGROUPS = {
    "": ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    "memory": (
        "sys/fs/cgroup/memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
}
"""Files of cgroup v2 and v1, by controller in /proc/self/cgroup: mount, limit, use, droppable use."""


def host_memory(root: Path = Path("/")) -> HostMemory:
    """Return the host's memory within the limits of this process's control groups. Blocking."""
    memory = psutil.virtual_memory()
    total, available = int(memory.total), int(memory.available)
    for limit, left in _limits(root):
        total, available = min(total, limit), min(available, left)
    return HostMemory(total=total, available=max(available, 0), groups=own_memory(root))


def own_memory(root: Path = Path("/")) -> dict[int, int]:
    """Return the bytes outside of files of this process's descendants, by session. Blocking."""
    found: dict[int, int] = {}
    with suppress(psutil.Error, OSError):
        for child in psutil.Process().children(recursive=True):
            with suppress(OSError, ValueError, StopIteration):
                rows = (root / f"proc/{child.pid}/status").read_text().splitlines()
                own = next(row for row in rows if row.startswith("RssAnon:"))
                session = os.getsid(child.pid)
                found[session] = found.get(session, 0) + int(own.split()[1]) * 1024
    return found


def _limits(root: Path) -> Iterator[tuple[int, int]]:
    """Yield limit and remaining bytes of the process's control group and of its parents."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for controller in _CGROUPS.keys() & controllers.split(","):
            mount, limit_file, use_file, droppable = _CGROUPS[controller]
            folder = Path(path.lstrip("/"))
            # In a container the path may be the host's, of which only the top is visible.
            for place in (folder, *folder.parents):
                with suppress(OSError, ValueError, KeyError):  # missing, or "max"
                    limit, used = (
                        int((root / mount / place / name).read_text()) for name in (limit_file, use_file)
                    )
                    stat = (root / mount / place / "memory.stat").read_text()
                    rest = limit - used + int(dict(row.split() for row in stat.splitlines())[droppable])
                    yield limit, rest
