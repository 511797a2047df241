"""The stand-in for NVML, in a process that has it first on its path, with model servers of its own."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from actors.gpu.monitor import Sample
from tests import fake_nvml
from tests.gateway import CHECKOUT

GIB = 1 << 30
MACHINE: dict[str, Any] = {
    "gpus": [
        {"uuid": "GPU-a", "name": "Fake 24G", "total": 24 * GIB, "foreign": GIB},
        {"uuid": "GPU-b", "total": 8 * GIB},
    ],
    "driver": "580.2",
    "context": 300,
    "models": {"tiny": 1000, "tin": 1},
}

CHILD = """
import os, subprocess, sys
import msgspec, pynvml
from actors.processes import OWNER, owner_mark
from actors.gpu.monitor import take_sample

WAIT = "print(1, flush=True); input()"
WRAP = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {WAIT!r}, *sys.argv[1:]])"

def serve(devices, *command):
    return subprocess.Popen(
        [sys.executable, "-c", *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, OWNER: owner_mark(), "CUDA_VISIBLE_DEVICES": devices}, start_new_session=True,
    )

def tell():
    print(msgspec.json.encode(take_sample()).decode(), flush=True)

servers = [
    serve("GPU-a,GPU-b", WAIT, "--model", "tiny.gguf"),
    serve("GPU-b", WRAP, "--model", "other.gguf"),
    serve("GPU-c", WAIT, "--model", "tiny.gguf"),
    serve("GPU-a", WAIT, "tiny.gguf"),
]
for server in servers:
    server.stdout.readline()
print(pynvml.__file__)
print(*[server.pid for server in servers])
tell()
for server in servers:
    server.communicate(b"\\n")
tell()
for _ in sys.stdin:
    tell()
"""


def test_a_process_that_has_it_first_on_its_path(tmp_path: Path) -> None:
    path = tmp_path / "nvml.json"
    environment = {**os.environ, **fake_nvml.write(path, **MACHINE, lag=1000)}
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD],
        cwd=CHECKOUT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        lines = iter(process.stdout)

        def sample() -> Sample:
            return msgspec.json.decode(next(lines), type=Sample)

        def after(**changes: Any) -> Sample:
            fake_nvml.write(path, **{**MACHINE, **changes})
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
            return sample()

        assert next(lines).strip() == str(CHECKOUT / "tests" / "fake_nvml" / "pynvml.py")
        tiny, other, _, _ = (int(word) for word in next(lines).split())

        first, second = sample().gpus
        assert (first.index, first.uuid, first.name, first.driver) == (0, "GPU-a", "Fake 24G", "580.2")
        assert (first.groups, first.processes) == ({tiny: 1300}, {tiny: 1300})
        assert (first.total, first.used, first.free) == (24 * GIB, GIB + 1300, 23 * GIB - 1300)
        # The one behind the wrapper has a pid of its own, and the wrapper's session.
        assert second.groups == {tiny: 1300, other: 300}
        assert other not in second.processes
        assert second.used == 1600

        ended = sample()
        assert [(gpu.used, gpu.groups) for gpu in ended.gpus] == [(GIB + 1300, {}), (1600, {})]
        assert [gpu.used for gpu in after(lag=0).gpus] == [GIB, 0]

        lost = after(lost=[0])
        assert ([gpu.uuid for gpu in lost.gpus], lost.lost) == (["GPU-b"], {"0": "GPU is lost"})

        broken = after(error="Driver Not Loaded")
        assert (broken.gpus, broken.error) == ((), "NVML cannot be asked: Driver Not Loaded")
        assert broken.host.total > 0
        assert len(after().gpus) == 2
        process.stdin.close()
    assert process.returncode == 0


def test_it_is_not_in_the_way_of_the_real_one() -> None:
    import pynvml

    assert hasattr(pynvml, "nvmlDeviceGetSerial")
