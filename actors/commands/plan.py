"""`run.py plan`: where a model would go, on this machine or a pretended one, and what it would take."""

import argparse
import asyncio
import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from actors.commands.effective_config import read_sound
from actors.commands.running_gateway import GatewayAwayError, GatewayRefusalError, ask
from actors.config.schema import BUILTIN, Config, Model
from actors.demo.model import demo_path, is_whole_demo
from actors.errors import ConfigError
from actors.folders import cache_folder
from actors.gpu.calibration import CALIBRATION, START, Calibration
from actors.gpu.host_memory import host_memory
from actors.gpu.monitor import take_sample_in_time
from actors.gpu.observer import device_of
from actors.hub.cache import ModelFiles, cache_of
from actors.messages import MemorySampled
from actors.model_names import parse_name
from actors.placement.ledger import Device
from actors.placement.options import MIB
from actors.progress import readable_size
from actors.scheduler.explain import explain, in_words
from actors.scheduler.model_states import ModelSpec, Policy
from actors.scheduler.planner import Planner
from actors.servers import StartError, Trial
from actors.servers.llama.appraisal import Appraisal, Predictor, with_trial
from actors.servers.llama.command import build_of, build_of_pool, find_command, runs_in_container
from actors.servers.llama.devices import Reach, image_key, key_of, reach_of
from actors.terminal import complain, printable, program, say

ENGINE_TIMEOUT = 5.0
"""Seconds within which a container engine must answer."""


class PlanError(Exception):
    """No plan can be made. The message says why, and what to do."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("name", metavar="NAME", help="a configured model, a downloaded one, or a GGUF file")
    parser.add_argument("--ctx", type=int, metavar="N", help="tokens of context, over all slots")
    parser.add_argument("--parallel", type=int, metavar="N", help="slots")
    parser.add_argument("--kv", metavar="TYPE", help="type of the cache: f16, q8_0, ...")
    parser.add_argument(
        "--gpus", metavar="MIB,...", help="free MiB of pretended GPUs; empty: none; default: this machine's"
    )
    parser.add_argument("--json", action="store_true", help="for programs")


def run(options: argparse.Namespace) -> int:
    """Print the plan; return the exit status."""
    config = read_sound(options)
    try:
        answer = _ask_gateway(config, options) or _plan(config, options, cache_folder())
    except (PlanError, StartError) as error:
        complain(f"{options.name}: {error}")
        return 1
    say(json.dumps(answer, indent=2) if options.json else _with_title(answer))
    return 1 if answer["action"] == "refuse" else 0


def _with_title(answer: dict[str, Any]) -> str:
    title = printable(answer["model"])
    if "architecture" in answer:
        title += f": {answer['architecture']}, {answer['quantization']}, {readable_size(answer['bytes'])}"
    return f"{title}\nGPUs: {answer['source']}\n\n{in_words(answer)}"


def _ask_gateway(config: Config, options: argparse.Namespace) -> dict[str, Any] | None:
    """Ask the gateway that runs on this machine, since it knows which models would have to make room."""
    changed = options.gpus is not None or options.ctx or options.parallel or options.kv
    if changed or config.llama_cpp.find(options.name) is None or not config.server.port:
        return None
    try:
        plan = ask(config, "GET", f"/admin/plan?model={quote(options.name)}")
        plan = {**plan, "source": f"as the gateway on port {config.server.port} sees them"}
        _with_title(plan)
    except GatewayRefusalError as error:
        if error.status in (401, 403):
            complain(f"{error}; not asked")
        return None
    except GatewayAwayError:
        return None
    except (LookupError, TypeError, ValueError, AttributeError):
        return None  # another program listens on that port
    return plan


def _plan(config: Config, options: argparse.Namespace, cache: Path) -> dict[str, Any]:
    model, files = _find(config, options.name, cache)
    with closing(Calibration(cache / CALIBRATION)) as calibration:
        return _plan_for(config, options, model, files, calibration)


def _plan_for(
    config: Config, options: argparse.Namespace, model: Model, files: ModelFiles, calibration: Calibration
) -> dict[str, Any]:
    overheads = asyncio.run(build_of_pool(config.server_pool))
    devices, source = _devices(options.gpus, calibration, overheads)
    predictor = Predictor(config, calibration, lambda: [device.total for device in devices])
    real = () if options.gpus is not None else tuple(device.id for device in devices)
    build, reach = asyncio.run(_server(config, model, predictor, real, on_gpu=bool(devices)))
    appraisal = predictor.appraise(_changed(model, options), files, build, reach=reach)
    header = appraisal.header
    return {
        "file": str(files.path),
        "architecture": header.architecture,
        "quantization": header.quantization,
        "bytes": header.size,
        "source": source,
        **_decide(config, options.name, model, appraisal, devices),
    }


async def _server(
    config: Config, model: Model, predictor: Predictor, gpus: Sequence[str], *, on_gpu: bool
) -> tuple[str, Reach | None]:
    """Find the version of the model's server and the GPUs that it can use."""
    pool = config.server_pool
    if not runs_in_container(pool, model):
        try:
            command = find_command(pool, model)
        except ConfigError:  # no server is installed yet
            return "", None
        key = await key_of(command, gpus)
        return await build_of(command), await reach_of(command, key) if gpus else None
    from actors.servers.docker.backend import build_of_image, image_of  # noqa: PLC0415 (aiohttp, which takes a while)
    from actors.servers.docker.engine import Engine  # noqa: PLC0415

    engine = Engine(pool.docker.host)
    try:
        async with asyncio.timeout(ENGINE_TIMEOUT):
            build = await build_of_image(engine, image_of(pool, model, on_gpu=on_gpu))
    except TimeoutError:
        return "", None
    finally:
        await engine.close()
    return build, "none" if predictor.used_no_gpu(image_key(build, gpus)) else None


def _decide(
    config: Config, name: str, model: Model, appraisal: Appraisal, devices: list[Device]
) -> dict[str, Any]:
    policy = msgspec.structs.replace(Policy.of(config), size=1)
    planner = Planner(policy, [ModelSpec.of(name, model)])
    planner.handle(MemorySampled(asked_at=0.0, devices=tuple(devices), host=host_memory()), 0.0)
    decision = planner.plan(name, appraisal.demand, 0.0)
    placement = decision.placement
    predicted = appraisal.predict(placement) if placement else None
    return explain(name, appraisal.demand, decision, placement, predicted, planner.ledger)


def _find(config: Config, name: str, cache: Path) -> tuple[Model, ModelFiles]:
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
            path = demo_path(model.path.removeprefix(BUILTIN), cache)
            if not is_whole_demo(path):
                raise PlanError("is built in, and written when it is first asked for: ask it something")
            return model, ModelFiles(path=path)
        projector = Path(model.mmproj) if model.mmproj else None
        return model, ModelFiles(path=Path(model.path), projector=projector)
    found = cache_of(config.hub).find(model.hub_name, model.revision, model.mmproj)
    if found is None:
        raise PlanError(f"is not downloaded yet: {program()} pull {name}")
    return model, found


def _changed(model: Model, options: argparse.Namespace) -> Model:
    """Return the model's settings with the command line's options applied."""
    if any(number is not None and number < 1 for number in (options.ctx, options.parallel)):
        raise PlanError("--ctx and --parallel: expected numbers above 0")
    return with_trial(model, Trial(ctx=options.ctx, parallel=options.parallel, kv=options.kv or None))


def _devices(pretended: str | None, calibration: Calibration, build: str) -> tuple[list[Device], str]:
    """Return the GPUs, and where their figures come from."""
    if pretended is not None:
        try:
            sizes = [int(float(word) * MIB) for word in pretended.split(",") if word.strip()]
        except (ValueError, OverflowError):
            sizes = [-1]
        if min(sizes, default=0) < 0:
            raise PlanError(f"--gpus: expected MiB with commas between, got {pretended!r}")
        names = [f"pretended GPU {nth}" for nth in range(len(sizes))]
        return [
            Device(id=name, index=nth, name=name, total=size, used=0, overhead=START)
            for nth, (name, size) in enumerate(zip(names, sizes, strict=True))
        ], "pretended"
    sample = take_sample_in_time()
    gpus = [device_of(gpu, calibration.overhead(gpu.name, gpu.driver, build)) for gpu in sample.gpus]
    return gpus, sample.error or "by NVML"
