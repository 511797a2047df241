"""The host's memory, within limits of control groups of both versions."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from actors.gpu.host_memory import host_memory, own_memory
from actors.placement.ledger import HostMemory


def control_group(folder: Path, limit: int | str, used: int, droppable: int, version: int) -> None:
    """Files of a control group."""
    folder.mkdir(parents=True, exist_ok=True)
    names = (
        ["memory.max", "memory.current"]
        if version == 2
        else ["memory.limit_in_bytes", "memory.usage_in_bytes"]
    )
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    word = "inactive_file" if version == 2 else "total_inactive_file"
    (folder / "memory.stat").write_text(f"anon 5\n{word} {droppable}\n")


def machine(root: Path, *lines: str) -> Path:
    """A root folder of a machine whose processes are in these control groups."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text("".join(f"{line}\n" for line in lines))
    return root


def test_a_host_without_control_groups(tmp_path: Path) -> None:
    memory = host_memory(tmp_path)
    assert memory.total == psutil.virtual_memory().total
    assert 0 < memory.available <= memory.total


def test_the_limit_of_a_control_group(tmp_path: Path) -> None:
    top = machine(tmp_path, "0::/a.slice/b.scope") / "sys/fs/cgroup"
    control_group(top / "a.slice/b.scope", "max", 1, 0, 2)
    assert host_memory(tmp_path).total == psutil.virtual_memory().total
    control_group(top / "a.slice/b.scope", 1000, 700, 50, 2)
    assert host_memory(tmp_path) == HostMemory(total=1000, available=350)
    # Those above limit it too.
    control_group(top / "a.slice", 2000, 1900, 0, 2)
    assert host_memory(tmp_path) == HostMemory(total=1000, available=100)
    control_group(top / "a.slice", 2000, 2001, 0, 2)
    assert host_memory(tmp_path) == HostMemory(total=1000, available=0)


@pytest.mark.parametrize("line", ["4:memory:/docker/x", "4:cpu,memory:/docker/x"])
def test_the_limit_of_an_old_control_group(tmp_path: Path, line: str) -> None:
    top = machine(tmp_path, "9:name=systemd:/", line, "0::/") / "sys/fs/cgroup/memory"
    control_group(top, 9223372036854771712, 500, 0, 1)
    assert host_memory(tmp_path).total == psutil.virtual_memory().total
    # In a container, whose group is at the top.
    control_group(top, 1000, 700, 50, 1)
    assert host_memory(tmp_path) == HostMemory(total=1000, available=350)
    control_group(top / "docker/x", 800, 100, 0, 1)
    assert host_memory(tmp_path) == HostMemory(total=800, available=350)


def test_what_children_have_of_their_own() -> None:
    code = "data = bytearray(50 << 20); print(1, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        found = own_memory()
        assert 50 << 20 < found[child.pid] < 90 << 20
        child.communicate(b"\n")
    assert child.pid not in own_memory()


def test_no_children_that_can_be_read(tmp_path: Path) -> None:
    assert own_memory(tmp_path) == {}
