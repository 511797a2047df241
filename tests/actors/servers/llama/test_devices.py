"""Which GPUs a model server can use: what it lists, and that it is asked again when it is another."""

import sys
from pathlib import Path

import pytest

from actors.servers.llama.command import EMBEDDED
from actors.servers.llama.devices import Reach, key_of, reach_of, reach_told, used_no_gpu

CUDA = "  CUDA0: NVIDIA GeForce RTX 4090 (24217 MiB, 23810 MiB free)"
RADEON = "  ROCm0: AMD Radeon RX 7900 XTX (24560 MiB, 24510 MiB free)"
VULKAN = "  Vulkan0: NVIDIA RTX A2000 (6138 MiB, 6000 MiB free)"
BLAS = "  BLAS: OpenBLAS (0 MiB, 0 MiB free)"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["Available devices:", CUDA], "nvidia"),
        (["ggml_cuda_init: found 1 CUDA devices:", "Available devices:", RADEON, CUDA], "nvidia"),
        (["Available devices:", VULKAN], "nvidia"),
        (["Available devices:", RADEON], "others"),
        (["Available devices:"], "none"),
        (["Available devices:", "  (none)"], "none"),
        (["Available devices:", BLAS], "none"),
        (["error: invalid argument: --list-devices"], None),
        ([CUDA], None),
        ([], None),
    ],
)
def test_what_is_listed(lines: list[str], expected: Reach | None) -> None:
    assert reach_told(lines, 1) == expected


def test_among_several_vulkan_finds_its_own() -> None:
    assert reach_told(["Available devices:", VULKAN, VULKAN.replace("0:", "1:")], 2) == "others"
    assert reach_told(["Available devices:", CUDA, VULKAN], 2) == "nvidia"


def server(path: Path, *lines: str, status: int = 0) -> list[str]:
    """A program that prints these lines, and counts how often it was asked."""
    path.write_text(
        f"open({str(path) + '.count'!r}, 'a').write('x')\n"
        + "".join(f"print({line!r})\n" for line in lines)
        + f"raise SystemExit({status})"
    )
    return [sys.executable, str(path)]


async def ask(command: list[str], *gpus: str) -> Reach | None:
    return await reach_of(command, await key_of(command, gpus))


async def test_it_is_asked_once_and_again_when_it_is_another(tmp_path: Path) -> None:
    path = tmp_path / "server.py"
    command = server(path, "Available devices:")
    assert [await ask(command, "GPU-a") for _ in range(3)] == ["none"] * 3
    assert path.with_name("server.py.count").read_text() == "x"
    # With other GPUs it may find some.
    assert await ask(command, "GPU-b") == "none"
    assert path.with_name("server.py.count").read_text() == "xx"
    assert await ask(server(path, "Available devices:", CUDA), "GPU-a") == "nvidia"


async def test_its_log_is_believed_rather_than_its_list(tmp_path: Path) -> None:
    command = server(tmp_path / "server.py", "Available devices:", CUDA)
    assert await ask(command, "GPU-a") == "nvidia"
    used_no_gpu(await key_of(command, ["GPU-a"]))
    assert await ask(command, "GPU-a") == "none"
    assert await ask(command, "GPU-b") == "nvidia"


async def test_one_that_fails_tells_nothing(tmp_path: Path) -> None:
    assert await ask(server(tmp_path / "server.py", "Available devices:", status=1)) is None
    assert await ask([str(tmp_path / "nowhere")]) is None


async def test_the_embedded_server(real_server: None) -> None:
    # The package of the tests is the one for the CPU.
    assert await ask(EMBEDDED) == "none"
