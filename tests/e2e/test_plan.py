"""`run.py plan`, as a user types it."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gateway import CHECKOUT, running
from tests.gguf_files import many_experts, write


def run(config: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(CHECKOUT / "run.py"), "--config", str(config), "plan", *words]
    environment = {**os.environ, "XDG_CACHE_HOME": str(config.parent)}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    many_experts(folder / "moe.gguf", layers=8)
    write(folder / "small.gguf", {"general.name": "not enough"})
    models = {
        "moe": {
            "path": "moe.gguf",
            "ctx_size": 8192,
            "parallel": 2,
            "arguments": ["-ctk", "q8_0", "--cache-type-v", "q8_0", "--mlock"],
        },
        "small": {"path": "small.gguf"},
        "gone": {"path": "gone.gguf"},
        "far": {"repo": "org/far"},
        "demo": {"path": "builtin:demo"},
    }
    path = folder / "config.yaml"
    path.write_text(json.dumps({"llama_cpp": {"models": models}, "hub": {"cache_dir": str(folder / "hub")}}))
    return path


def test_for_programs(config: Path) -> None:
    answer = json.loads(run(config, "moe", "--gpus", "24000,24000", "--json").stdout)
    assert (answer["placement"], answer["certainty"]) == ("one GPU", "exact")
    (gpu,) = answer["gpus"]
    assert (gpu["layers"], gpu["free"]) == (9, 24000 << 20)
    # Two bytes and a sixteenth of one for each weight of the cache: 8192 cells, 8 layers, 32 heads of 128.
    assert gpu["kv"] == 2 * 8192 * 8 * (32 * 128 // 32 * 34)
    assert {part: origin["certainty"] for part, origin in answer["origins"].items()} == dict.fromkeys(
        ("weights", "kv", "compute", "output"), "exact"
    )
    assert gpu["total"] == sum(gpu[part] for part in ("weights", "kv", "compute", "output"))
    half = json.loads(run(config, "moe", "--gpus", "24000", "--ctx", "4096", "--json").stdout)
    assert half["gpus"][0]["kv"] * 2 == gpu["kv"]
    plain = json.loads(
        run(config, str(config.with_name("moe.gguf")), "--kv", "f16", "--gpus", "", "--json").stdout
    )
    assert (plain["placement"], plain["gpus"]) == ("host", [])


def test_for_people(config: Path) -> None:
    answer = run(config, "moe", "--gpus", "3000")
    assert answer.returncode == 0
    assert "experts on host: with its experts it fits nowhere; they are on the host" in answer.stdout
    assert "GPU 0 [####" in answer.stdout
    assert "GPUs: pretended" in answer.stdout
    assert "prediction: bound; context 8,192; load: not known yet" in answer.stdout
    assert "weights  exact: the header" in answer.stdout
    assert "compute  bound: a replay of llama.cpp's graph, and a margin" in answer.stdout
    assert "llama-server: --fit off --gpu-layers 999 --override-tensor" in answer.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("none",), "none: is no configured model, no downloaded one, and no file"),
        (("far",), "far: is not downloaded yet: run.py pull far"),
        (("org/other:Q8_0",), "is not downloaded yet: run.py pull org/other:Q8_0"),
        (("gone",), "gone.gguf: no such file"),
        (("demo",), "is built in, and written when it is first asked for"),
        (("moe", "--kv", "q9"), "'q9' is no type of a cache"),
        (("moe", "--ctx", "-5"), "expected numbers above 0"),
        (("moe", "--gpus", "many"), "--gpus: expected MiB with commas between"),
        (("moe", "--gpus", "inf"), "--gpus: expected MiB with commas between"),
        (("moe", "--gpus", "8000,-5"), "--gpus: expected MiB with commas between"),
    ],
)
def test_what_is_wrong(words: tuple[str, ...], message: str, config: Path) -> None:
    answer = run(config, *words)
    assert answer.returncode == 1
    assert message in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_header_that_says_too_little_is_guessed_by_its_size(config: Path) -> None:
    answer = json.loads(run(config, "small", "--gpus", "2000", "--json").stdout)
    assert (answer["placement"], answer["certainty"]) == ("one GPU", "fallback")
    assert answer["gpus"][0]["set_aside"] > config.with_name("small.gguf").stat().st_size


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (
            ("moe", "--ctx", "4000000"),
            "a context of 4,000,000 tokens, 2,000,000 for each of 2 slots, is more than the 131,072",
        ),
        (("moe", "--kv", "q4_0"), None),
    ],
)
def test_impossible_settings(words: tuple[str, ...], reason: str | None, config: Path) -> None:
    answer = run(config, *words, "--gpus", "24000")
    assert answer.returncode == (reason is not None)
    assert (reason or "") in answer.stderr


def test_without_a_gpu_it_says_so(config: Path) -> None:
    answer = run(config, "moe")
    assert answer.returncode == 0
    assert "GPUs: " in answer.stdout


@pytest.mark.parametrize("host", ["::1", "::"])
def test_a_gateway_on_ipv6_is_asked(host: str, tmp_path: Path) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    models = {"demo": {"path": "builtin:demo"}}
    keys = {"boss": {"secret": "the-secret-of-admin", "admin": True}}
    with running(
        {"server": {"host": host, "open": True}, "keys": keys, "llama_cpp": {"models": models}}, tmp_path
    ) as gateway:
        assert gateway.url.startswith(f"http://[{host}]:")
        port = gateway.url.rpartition(":")[2]
        answer = run(tmp_path / "config.yaml", "--port", port, "demo")
        assert f"GPUs: as the gateway on port {port} sees them" in answer.stdout
        (tmp_path / "other.yaml").write_text("llama_cpp: {models: {demo: {path: 'builtin:demo'}}}")
        answer = run(tmp_path / "other.yaml", "--host", host, "--port", port, "demo")
        assert "wants an admin key (LLAMA_SMART_PROXY_KEY)" in answer.stderr
