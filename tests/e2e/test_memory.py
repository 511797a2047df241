"""Predictions beside what a real llama.cpp server says that it allocates, on the CPU."""

import re
import struct
from pathlib import Path
from typing import Any

import pytest

from actors.demo.model import ARCHITECTURE, CONTEXTS, write_demo
from actors.memory.gguf import read_file
from actors.memory.prediction.predict import predict
from actors.memory.prediction.settings import LoadSettings
from actors.memory.shape import Shape
from tests.conftest import Start
from tests.gateway import Gateway

YARN = ["--rope-scaling", "yarn", "--rope-freq-scale", "0.5"]
MIB = 1 << 20
LINE = re.compile(r"CPU\s+(KV|compute|output) buffer size =\s+([\d.]+) MiB")


def allocated(gateway: Gateway, model: str) -> dict[str, float]:
    """MiB by kind, from the server's log."""
    lines = [line["line"] for line in gateway.log if line["event"] == "server log" and line["model"] == model]
    found = [match for line in lines if (match := LINE.search(line))]
    return {match[1]: float(match[2]) for match in found}


CASES: dict[str, tuple[dict[str, Any], LoadSettings]] = {
    "slots": ({"ctx_size": 4096, "parallel": 4}, LoadSettings(context=4096, parallel=4, unified=True)),
    "long": ({"ctx_size": 524288, "parallel": 4}, LoadSettings(context=524288, parallel=4, unified=True)),
    "one-slot": ({"ctx_size": 2048, "parallel": 1}, LoadSettings(context=2048)),
    "apart": (
        {"ctx_size": 4096, "parallel": 2, "arguments": ["--no-kv-unified"]},
        LoadSettings(context=4096, parallel=2),
    ),
    "quantized": (
        {"ctx_size": 4096, "parallel": 1, "arguments": ["-ctk", "q8_0", "-ctv", "q8_0", "-fa", "on"]},
        LoadSettings(context=4096, type_k="Q8_0", type_v="Q8_0"),
    ),
    "small-batch": (
        {"ctx_size": 4096, "parallel": 1, "arguments": ["-ub", "128"]},
        LoadSettings(context=4096, micro_batch=128),
    ),
}


def test_the_embedded_server_allocates_what_was_predicted(
    start: Start, cache: str, real_server: None
) -> None:
    models = {name: {"path": "builtin:demo", **settings} for name, (settings, _) in CASES.items()}
    gateway = start(models, server_pool={"size": len(CASES)})
    for name in CASES:
        assert gateway.chat(name).status_code == 200
    shape = Shape(read_file(next(Path(cache).rglob("demo-v*.gguf"))))
    for name, (_, settings) in CASES.items():
        host = predict(shape, settings, []).host
        told = allocated(gateway, name)
        assert told["KV"] == pytest.approx(host.kv / MIB, abs=0.01), name
        assert told["output"] == pytest.approx(host.output / MIB, abs=0.01), name
        assert told["compute"] == pytest.approx(host.compute / MIB, rel=0.06), name


@pytest.fixture(scope="module")
def trained_for_4096(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in model, whose file says that it was trained for a short context."""
    path = tmp_path_factory.mktemp("short") / "short.gguf"
    write_demo(path, embedding=False)
    key = f"{ARCHITECTURE}.context_length".encode() + struct.pack("<I", 4)  # the type: 32 bits
    content = path.read_bytes()
    assert content.count(key) == 1
    path.write_bytes(
        content.replace(key + struct.pack("<I", CONTEXTS["demo"]), key + struct.pack("<I", 4096))
    )
    return path


@pytest.mark.parametrize(
    ("settings", "slot"),
    [
        ({"ctx_size": 12288, "longer_context": True}, 12288),
        ({"ctx_size": 20000, "longer_context": True, "parallel": 1}, 20000),
        ({"ctx_size": 12288}, 4096),
        ({"ctx_size": 8192, "longer_context": True, "arguments": ["--no-kv-unified"], "parallel": 2}, 4096),
        ({"ctx_size": 8192, "parallel": 1, "arguments": YARN}, 8192),
    ],
)
def test_a_slot_has_the_context_that_is_promised(
    settings: dict[str, Any], slot: int, start: Start, trained_for_4096: Path, real_server: None
) -> None:
    gateway = start({"m": {"path": str(trained_for_4096), **settings}})
    props = gateway.client.get("/props?model=m").json()
    told = props["default_generation_settings"]["n_ctx"]
    placement = gateway.model("m")["placement"]
    assert (placement["context"], placement["slot_context"]) == (settings["ctx_size"], slot)
    assert told - slot in range(256), "llama.cpp rounds up to whole blocks"
    (running,) = gateway.client.get("/api/ps").json()["models"]
    assert running["context_length"] == slot
    answer = gateway.client.post(
        "/v1/completions", json={"model": "m", "prompt": "a b " * 3000, "max_tokens": 1}
    )
    tokens = len(
        gateway.client.post("/tokenize", json={"model": "m", "content": "a b " * 3000}).json()["tokens"]
    )
    assert tokens > 4096
    assert answer.status_code == (200 if tokens < slot else 400), answer.text


def test_a_context_that_cannot_be_is_refused(start: Start, trained_for_4096: Path, real_server: None) -> None:
    gateway = start({"m": {"path": str(trained_for_4096), "ctx_size": 8192, "parallel": 1}})
    refused = gateway.chat("m")
    assert refused.status_code == 503
    assert "8,192 tokens is more than the 4,096 that the model was trained for" in refused.text
