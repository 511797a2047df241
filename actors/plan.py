"""`run.py plan`: where a model would go on this machine or a pretended one, and what it would take."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from actors.config import BUILTIN, Config, Model
from actors.gguf import Header, HeaderError, block_of, read_model
from actors.gpu import GpuError, probe
from actors.hub.hub import cache_of
from actors.hub.names import parse_name
from actors.hub.progress import readable_size
from actors.memory.predict import HOST, Settings, Usage
from actors.memory.shape import Shape, ShapeError
from actors.placement import MIB, Placement, layers_of, place

BAR = 40
COMPONENTS = ("weights", "kv", "compute", "output")


class PlanError(Exception):
    """The plan cannot be made; the message says why, and what to do."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument("name", metavar="NAME", help="a configured model, a downloaded one, or a GGUF file")
    parser.add_argument("--ctx", type=int, metavar="N", help="tokens of context, over all slots")
    parser.add_argument("--parallel", type=int, metavar="N", help="slots")
    parser.add_argument("--kv", metavar="TYPE", help="type of the cache: f16, q8_0, ...")
    parser.add_argument("--gpus", metavar="MIB,...", help="free MiB of pretended GPUs; empty: none")
    parser.add_argument("--json", action="store_true", help="for programs")


def plan(config: Config, options: argparse.Namespace) -> int:
    """Print the plan; return the exit status."""
    try:
        model, path = _find(config, options.name)
        header = read_model(path)
        free, note = _free(options.gpus)
        placement = place(Shape(header), _settings(header, model, options), free)
    except (PlanError, HeaderError, ShapeError, ValueError) as error:
        print(f"run.py: {options.name}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"run.py: {options.name}: cannot be read: {error.strerror}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(as_json(path, free, placement), indent=2))
    else:
        _print(path, header, free, note, placement)
    return 0


def as_json(path: Path, free: list[int], placement: Placement) -> dict[str, Any]:
    """The plan for programs; sizes are bytes."""
    prediction = placement.prediction
    return {
        "file": str(path),
        "placement": placement.how,
        "reason": placement.why,
        "certainty": prediction.certainty,
        "gpus": [
            {"index": gpu, "free": free[gpu], "layers": layers_of(placement, nth), **_bytes(usage)}
            for nth, (gpu, usage) in enumerate(zip(placement.gpus, prediction.gpus, strict=True))
        ],
        "host": {"layers": layers_of(placement, HOST), **_bytes(prediction.host)},
        "arguments": placement.arguments,
    }


def _bytes(usage: Usage) -> dict[str, int]:
    return {**{part: getattr(usage, part) for part in COMPONENTS}, "total": usage.total}


def _find(config: Config, name: str) -> tuple[Model, Path]:
    model = config.llama_cpp.find(name)
    if model is None and Path(name).is_file():
        model = Model(path=name)
    elif model is None and (hub_name := parse_name(name)):
        model = Model(repo=hub_name.repo, variant=hub_name.variant)
    if model is None:
        raise PlanError("is no configured model, no downloaded one, and no file")
    if model.hub_name is None:
        assert model.path is not None
        if model.path.startswith(BUILTIN):
            raise PlanError("the built-in models are too small to plan for")
        return model, Path(model.path)
    found = cache_of(config.hub).find(model.hub_name, model.revision, model.mmproj)
    if found is None:
        raise PlanError(f"is not downloaded yet: run.py pull {name}")
    return model, found.path


def _free(pretended: str | None) -> tuple[list[int], str]:
    """Free bytes of each GPU, and where the figures come from."""
    if pretended is not None:
        try:
            return [int(float(word) * MIB) for word in pretended.split(",") if word.strip()], "pretended"
        except ValueError:
            raise PlanError(f"--gpus: expected MiB with commas between, got {pretended!r}") from None
    try:
        return [gpu.free for gpu in probe()], "by NVML"
    except GpuError as error:
        return [], str(error)


def _settings(header: Header, model: Model, options: argparse.Namespace) -> Settings:
    given = _parse(model.arguments)
    context = options.ctx or given.ctx_size or model.ctx_size or header.context_length or 4096
    parallel = options.parallel or model.parallel
    if context < 1 or parallel < 1:
        raise PlanError("--ctx and --parallel: expected numbers above 0")
    types = [_type(options.kv or word) for word in (given.cache_type_k, given.cache_type_v)]
    return Settings(
        context=context,
        parallel=parallel,
        unified=parallel > 1,
        type_k=types[0],
        type_v=types[1],
        flash_attention=given.flash_attn not in ("off", "0", "false"),
        micro_batch=given.ubatch_size,
    )


def _type(word: str) -> str:
    try:
        block_of(word.upper())
    except KeyError:
        raise PlanError(f"{word!r} is no type of a cache; such are f16, bf16, q8_0, q4_0") from None
    return word.upper()


def _parse(arguments: list[str]) -> argparse.Namespace:
    """Those of a model's own llama-server arguments that its memory depends on."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-c", "--ctx-size", type=int)
    parser.add_argument("-ctk", "--cache-type-k", default="f16")
    parser.add_argument("-ctv", "--cache-type-v", default="f16")
    parser.add_argument("-fa", "--flash-attn", default="on")
    parser.add_argument("-ub", "--ubatch-size", type=int, default=512)
    return parser.parse_known_args(arguments)[0]


def _print(path: Path, header: Header, free: list[int], note: str, placement: Placement) -> None:
    prediction, settings = placement.prediction, placement.settings
    print(f"{path.name}: {header.architecture}, {header.quantization}, {readable_size(header.size)}")
    types = f"{settings.type_k.lower()}/{settings.type_v.lower()}"
    print(f"context {settings.context:,}, {settings.parallel} slots, cache {types}")
    print(f"\n{placement.how}: {placement.why}\n")
    print(f"{'MiB':<8}{'layers':>7}" + "".join(f"{part:>10}" for part in (*COMPONENTS, "total", "free")))
    for nth, (gpu, usage) in enumerate(zip(placement.gpus, prediction.gpus, strict=True)):
        _row(f"GPU {gpu}", layers_of(placement, nth), usage, free[gpu])
    _row("host", layers_of(placement, HOST), prediction.host, None)
    for nth, gpu in enumerate(placement.gpus):
        filled = min(BAR, round(BAR * prediction.gpus[nth].total / max(1, free[gpu])))
        print(f"\nGPU {gpu} [{'#' * filled}{'.' * (BAR - filled)}]", end="")
    print(f"\n\nprediction: {prediction.certainty}; GPUs: {note}")
    print("llama-server: " + " ".join(placement.arguments))


def _row(title: str, layers: int, usage: Usage, free: int | None) -> None:
    cells = [getattr(usage, part) for part in (*COMPONENTS, "total")]
    room = "" if free is None else f"{free / MIB:>10,.0f}"
    print(f"{title:<8}{layers:>7}" + "".join(f"{cell / MIB:>10,.0f}" for cell in cells) + room)
