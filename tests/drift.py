"""`make drift`: loads recorded shapes with any build of llama-server, and prints what differs.

Each shape is a file of its header, with a hole for the weights, and llama-server's dry run measures it, so no
weights are read. Its figures are whole MiB, rounded down.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import gguf
import msgspec

from actors.memory.builds import build_from
from actors.memory.gguf import Header
from actors.memory.prediction.predict import predict
from actors.memory.prediction.results import MemoryUsage
from actors.memory.prediction.settings import LoadSettings
from actors.memory.shape import Shape
from actors.servers.llama.command import EMBEDDED, build_of, python_path
from actors.servers.llama.dry_run import dry_run
from actors.servers.llama.log import HOST, Breakdown
from tests import gguf_files
from tests.actors.memory.headers import header, names
from tests.actors.memory.zoo import MODELS, model

MIB = 1 << 20
SHAPES = (
    "llama8b", "qwen3-0.6b", "qwen3moe-30b", "gemma3-4b", "gptoss-20b", "glm4.7-flash",
    "qwen35moe-35b-a3b", "gemma4-e4b", "glm4.5-air", "granite4-h-tiny", "lfm2-8b-a1b", "smollm3-3b",
)  # fmt: skip
SETTINGS = (
    LoadSettings(context=8192),
    LoadSettings(context=16384, parallel=4, unified=True, type_k="Q8_0", type_v="Q8_0"),
    LoadSettings(context=8192, micro_batch=2048, flash_attention=False),
)
SLACK = 2
"""MiB that rounding may take."""


def write(path: Path, known: Header) -> Path:
    """Write a header to a file without weights."""
    architecture = known.architecture or ""
    vocabulary = next(tensor.shape[-1] for tensor in known.tensors if tensor.name == "token_embd.weight")
    metadata = {
        f"{architecture}.attention.layer_norm_rms_epsilon": 1e-6,
        f"{architecture}.context_length": 131072,
        f"{architecture}.vocab_size": vocabulary,
        "tokenizer.ggml.model": "no_vocab",
    } | {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in known.metadata.items()
        if key != "general.architecture"
    }
    tensors = [
        (tensor.name, tensor.shape, gguf.GGMLQuantizationType[tensor.type]) for tensor in known.tensors
    ]
    return gguf_files.write(path, metadata, tensors, architecture=architecture)


def flags(path: Path, settings: LoadSettings) -> list[str]:
    """Return llama-server's flags for these settings."""
    unified = ["--kv-unified"] if settings.unified else []
    flash = "off" if settings.flash_attention is False else "on"
    return [
        *("--model", str(path), "--ctx-size", str(settings.context), "--parallel", str(settings.parallel)),
        *("--ubatch-size", str(settings.micro_batch), "--flash-attn", flash, *unified),
        *(
            "--cache-type-k",
            settings.type_k.lower(),
            "--cache-type-v",
            settings.type_v.lower(),
            "--no-warmup",
        ),
    ]


def compare(name: str, usage: MemoryUsage, told: Breakdown, *, on_cpu: bool = False) -> list[str]:
    """Return a line for each component that differs; on the CPU by more than a tenth."""

    def part_of(size: int) -> int:
        return size // 10 if on_cpu else 0

    pairs = (("weights", usage.weights, told.model), ("cache", usage.kv, told.context),
        ("compute", usage.compute, told.compute))  # fmt: skip
    return [
        f"{name}: {part} {theirs / MIB:,.0f} MiB, predicted {ours / MIB:,.1f} ({(theirs - ours) / MIB:+,.1f})"
        for part, ours, theirs in pairs
        if theirs - ours > SLACK * MIB + part_of(ours) or ours - theirs > (SLACK + 1) * MIB + part_of(ours)
    ]


async def measure(command: Sequence[str], shapes: Sequence[str]) -> int:
    """Print the differences of a server, and return their number."""
    version = await build_of(command)
    build = build_from(version)
    print(f"{' '.join(command)}: {version or 'no version'}, {'tested' if build.is_tested else 'not tested'}")
    moved = silent = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in shapes:
            known = model(name) if name in MODELS else header(name)
            path = write(Path(folder) / f"{name}.gguf", known)
            for settings in SETTINGS:
                told = await dry_run(
                    [*command, *flags(path, settings)], environment={"PYTHONPATH": python_path()}, timeout=60
                )
                if told is None:
                    silent += 1
                    continue
                gpus = sorted(device for device in told if device != HOST and not device.startswith("CPU"))
                asked = msgspec.structs.replace(settings, build=build)
                found = predict(Shape(known), asked, [80 << 30] * len(gpus))
                for device, usage in zip(gpus, found.gpus, strict=True):
                    lines = compare(f"{name}, {settings.context}, {device}", usage, told[device])
                    moved += len(lines)
                    print(*lines, sep="\n", end="\n" if lines else "")
                if not gpus:  # without a GPU, weights are packed again for the CPU, which is not in this row
                    usage = msgspec.structs.replace(found.host, weights=told[HOST].model)
                    lines = compare(f"{name}, {settings.context}, host", usage, told[HOST], on_cpu=True)
                    moved += len(lines)
                    print(*lines, sep="\n", end="\n" if lines else "")
            path.unlink()
    print(f"{len(shapes) * len(SETTINGS)} loads, {moved} differences, {silent} that were refused")
    return moved


def main() -> None:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("server", nargs="*", default=EMBEDDED, help="llama-server; default: the embedded one")
    parser.add_argument("--all", action="store_true", help="all the recorded shapes, not a dozen")
    given = parser.parse_args()
    shapes = [*MODELS, *names()] if given.all else SHAPES
    sys.exit(min(1, asyncio.run(measure(given.server, shapes))))


if __name__ == "__main__":
    main()
