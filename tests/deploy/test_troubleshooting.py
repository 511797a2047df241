"""What docs/operating.md says that one sees is what one sees."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import fake_nvml, gpu_server
from tests.conftest import Start
from tests.gateway import CHECKOUT, Gateway, Json

PAGE = re.sub(r"\s+", " ", (CHECKOUT / "docs" / "operating.md").read_text())
MIB = 1 << 20
SMALL: Json = {
    "path": "builtin:demo",
    "ctx_size": 4096,
    "parallel": 2,
    "command": gpu_server.COMMAND,
    "arguments": ["--threads", "1"],
}
CARD: Json = {"uuid": "GPU-a", "name": "Pretended", "total": 8000 * MIB}
OTHER: Json = {**CARD, "uuid": "GPU-b"}


@pytest.fixture(autouse=True)
def _visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def tell(folder: Path, monkeypatch: pytest.MonkeyPatch, **machine: Any) -> None:
    for name, value in fake_nvml.write(
        folder / "nvml.json", driver="1", context=400 * MIB, **machine
    ).items():
        monkeypatch.setenv(name, value)


def said(gateway: Gateway) -> str:
    """All that an operator can see."""
    health = json.dumps(gateway.health())
    return "\n".join([health, *(json.dumps(line) for line in gateway.log)])


@pytest.mark.parametrize(
    ("machine", "model", "sections", "phrases"),
    [
        (
            {"gpus": [CARD], "error": "Driver/library version mismatch"},
            SMALL,
            {},
            ["Driver/library version mismatch"],
        ),
        (
            {"gpus": [CARD]},
            SMALL,
            {"gpu": {"enabled": False}},
            ["gpu.enabled or gpu.enable_gpu_monitoring is false"],
        ),
        ({"gpus": [CARD, OTHER], "lost": [1]}, SMALL, {}, ["GPU is lost", "gpus_lost"]),
        (
            {"gpus": [{**CARD, "total": 300 * MIB}]},
            SMALL,
            {"gpu": {"cpu_fallback": False}},
            ["it needs 21 MiB of a GPU at least, and the GPUs have at most 0 MiB for it"],
        ),
        (
            {"gpus": [{**CARD, "foreign": 7900 * MIB}]},
            SMALL,
            {},
            ['"place": "host"', "no GPU has room for any of it", "foreign_memory", "room_for_models"],
        ),
        ({"gpus": [CARD]}, {**SMALL, "devices": [5]}, {}, ["no GPU has room for any of it"]),
        ({"gpus": [CARD]}, {**SMALL, "gpu_layers": 0}, {}, ["as its settings say"]),
        (
            {"gpus": [{**CARD, "total": 911 * MIB}, {**OTHER, "total": 911 * MIB}]},
            {**SMALL, "ctx_size": 4096},
            {"gpu": {"allocation_strategy": "distribute"}},
            ["split over 2 GPUs"],
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) and isinstance(value[0], str) else "",
)
def test_what_is_quoted_is_said(
    machine: Json,
    model: Json,
    sections: Json,
    phrases: list[str],
    start: Start,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    real_server: None,
) -> None:
    tell(tmp_path, monkeypatch, **machine)
    gateway = start({"a": model}, **sections)
    gateway.chat("a")
    gateway.wait_for("request", model="a")  # the log has a writer of its own
    told = said(gateway)
    for phrase in phrases:
        assert phrase in PAGE
        assert phrase in told


def test_without_a_driver(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "")
    gateway = start({"a": SMALL})
    if gateway.health()["gpus"]:
        pytest.skip("this machine has a GPU")
    assert "NVML Shared Library Not Found" in gateway.health()["gpu_error"]
    assert "NVML Shared Library Not Found" in PAGE


def test_out_of_memory(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tell(tmp_path, monkeypatch, gpus=[CARD])
    count = tmp_path / "count"
    command = [sys.executable, "-m", "tests.stand_in", "--oom-until", "2", "--oom-count", str(count)]
    gateway = start({"a": {**SMALL, "command": command}})
    assert gateway.chat("a").status_code == 503
    for phrase in ("model ran out of memory", "out of memory"):
        assert phrase in PAGE
        assert phrase in said(gateway)
