"""What is told at the start of models that cannot work on this machine."""

from pathlib import Path
from typing import Any

import pytest

from actors.commands.preflight import look_at_models, look_at_pool
from actors.config.file import parse_config
from actors.errors import dotted
from actors.placement.ledger import Device
from tests.gguf_files import F32, SMALL, write

LLAMA = {
    "llama.context_length": 4096,
    "llama.block_count": 1,
    "llama.embedding_length": 256,
    "llama.attention.head_count": 4,
}
GPUS = [Device(id="GPU-a", index=0, name="Card", total=1 << 34, used=0)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a model, a text, and a program that must not be executed."""
    write(tmp_path / "good.gguf", LLAMA)
    write(tmp_path / "learned.gguf", LLAMA, [*SMALL, ("position_embd.weight", (256, 8), F32)])
    (tmp_path / "text.gguf").write_text("no model")
    (tmp_path / "folder.gguf").mkdir()
    (tmp_path / "program").write_text("#!/bin/sh\n")
    return tmp_path


def faults(models: Any, folder: Path, **sections: Any) -> list[str]:
    config = parse_config({"llama_cpp": {"models": models}, **sections}, folder=folder)
    return [f"{dotted(found.fault.path)}: {found.fault.message}" for found in look_at_models(config, GPUS)]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"path": "good.gguf"}, None),
        ({"path": "builtin:demo"}, None),
        ({"path": "builtin:demo", "ctx_size": 524288}, None),
        ({"path": "builtin:demo", "ctx_size": 524289, "longer_context": True}, None),
        (
            {"path": "builtin:demo", "ctx_size": 524289},
            "m: a context of 524,289 tokens, 131,072 for each of 4 slots",
        ),
        (
            {"path": "builtin:demo-embed", "ctx_size": 4097, "parallel": 1},
            "m: a context of 4,097 tokens is more than the 4,096",
        ),
        ({"repo": "org/not-downloaded"}, None),
        ({"path": "good.gguf", "devices": [0, "GPU-a"]}, None),
        ({"path": "none.gguf"}, "m: {folder}/none.gguf: no such file"),
        ({"path": "text.gguf"}, "m: {folder}/text.gguf: is not a GGUF file"),
        ({"path": "folder.gguf"}, "m: {folder}/folder.gguf: "),
        (
            {"path": "good.gguf", "mmproj": "none.gguf"},
            "m: {folder}/good.gguf: {folder}/none.gguf is missing",
        ),
        (
            {"path": "good.gguf", "ctx_size": 16385},
            "m: {folder}/good.gguf: a context of 16,385 tokens, 4,096 for",
        ),
        ({"path": "good.gguf", "ctx_size": 16385, "longer_context": True}, None),
        (
            {"path": "learned.gguf", "ctx_size": 8192, "longer_context": True},
            "m: {folder}/learned.gguf: longer",
        ),
        ({"path": "good.gguf", "parallel": 300}, "m: {folder}/good.gguf: 300 slots are more than"),
        (
            {"path": "good.gguf", "arguments": ["--ctx-size", "x"]},
            "m: {folder}/good.gguf: --ctx-size: expected",
        ),
        ({"path": "good.gguf", "arguments": ["-t", "1", "--flash-attn=on", "--rerank", "--swa-full"]}, None),
        (
            {"path": "good.gguf", "arguments": ["-t", "1", "--mlock"]},
            "m.arguments[2]: the embedded server does not know '--mlock'",
        ),
        ({"path": "good.gguf", "image": "x"}, "m.image: has no effect: the model's runtime is not docker"),
        ({"path": "good.gguf", "command": "./program"}, "m.command: {folder}/program must not be executed"),
        ({"path": "good.gguf", "command": "./none -x"}, "m.command: there is no program {folder}/none"),
        ({"path": "good.gguf", "command": "no-such"}, "m.command: there is no program 'no-such' on the PATH"),
        ({"path": "good.gguf", "runtime": "llama-server"}, "m.runtime: no llama-server on the PATH"),
        ({"path": "good.gguf", "devices": [0, 7]}, "m.devices[1]: there is no GPU 7; there are: 0 (GPU-a)"),
        ({"path": "good.gguf", "runtime": "docker"}, "m: there is no Docker Engine for it: /none"),
    ],
)
def test_a_model(model: Any, message: str | None, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(folder))
    pool = {"docker": {"host": "unix:///none"}}
    found = faults({"m": model}, folder, server_pool=pool)
    if message is None:
        assert found == []
    else:
        (line,) = found
        assert line.startswith(f"llama_cpp.models.{message.format(folder=folder)}")


@pytest.mark.parametrize(
    ("model", "pool", "message"),
    [
        ({"arguments": ["-t", "8", "-mg", "1"]}, {}, "m.arguments[2]: -mg 1 collides with the placement"),
        ({}, {"arguments": ["-dev", "CUDA1"]}, "server_pool.arguments[0]: -dev CUDA1 collides"),
        (
            {"command": ["env", "CUDA_VISIBLE_DEVICES=1", "true"]},
            {},
            "m.command: CUDA_VISIBLE_DEVICES=1 collides",
        ),
        ({"arguments": ["-mg", "0"]}, {}, None),
    ],
)
def test_flags_that_collide_with_the_placement(
    model: Any, pool: Any, message: str | None, folder: Path
) -> None:
    pool = {"command": ["true"], **pool}
    found = faults({"m": {"path": "good.gguf", **model}}, folder, server_pool=pool)
    assert len(found) == (message is not None), found
    assert message is None or message in found[0]


def test_offline(folder: Path) -> None:
    hub = {"offline": True, "cache_dir": "cache"}
    assert faults({"m": {"repo": "org/x"}}, folder, hub=hub) == [
        "llama_cpp.models.m: is not downloaded, and hub.offline is set"
    ]


@pytest.mark.parametrize(
    ("pool", "model", "faults"),
    [
        ({"runtime": "embedded"}, {}, []),
        ({"command": "./none"}, {}, ["command"]),
        ({"command": "./none"}, {"command": "true"}, []),
        ({"runtime": "docker", "command": "./inside"}, {}, []),
        ({"command": "no-such-program -x"}, {}, ["command"]),
        ({"host": ""}, {}, ["host"]),
    ],
)
def test_the_pool(pool: Any, model: Any, faults: list[str], folder: Path) -> None:
    models = {"m": {"path": "good.gguf", **model}}
    config = parse_config({"llama_cpp": {"models": models}, "server_pool": pool}, folder=folder)
    assert [fault.path for fault in look_at_pool(config)] == [("server_pool", name) for name in faults]
