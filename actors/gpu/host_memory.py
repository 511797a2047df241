"""The memory of this machine, as far as its control groups let the gateway use it."""

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
"""Of v2 and v1, by the controller in /proc/self/cgroup: mount, limit, use, what of that can be dropped."""


def host_memory(root: Path = Path("/")) -> HostMemory:
    """The host's memory, as far as the own control group lets it be used. Blocking."""
    memory = psutil.virtual_memory()
    total, available = int(memory.total), int(memory.available)
    for limit, left in _limits(root):
        total, available = min(total, limit), min(available, left)
    return HostMemory(total=total, available=max(available, 0))


def _limits(root: Path) -> Iterator[tuple[int, int]]:
    """Limit and rest, in bytes, of the own control group and of those above it, which limit it too."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for controller in _CGROUPS.keys() & controllers.split(","):
            mount, limit_file, use_file, droppable = _CGROUPS[controller]
            folder = Path(path.lstrip("/"))
            # In a container the path may be the host's, of which only the top is to be seen.
            for place in (folder, *folder.parents):
                with suppress(OSError, ValueError, KeyError):  # not there, or "max"
                    limit, used = (
                        int((root / mount / place / name).read_text()) for name in (limit_file, use_file)
                    )
                    stat = (root / mount / place / "memory.stat").read_text()
                    rest = limit - used + int(dict(row.split() for row in stat.splitlines())[droppable])
                    yield limit, rest
