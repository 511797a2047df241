"""Checks before a start: settings that are valid but cannot work on this machine. Blocking.

A problem that keeps the gateway from serving at all is a `Fault`. A problem of one model is a `Finding`:
`run.py check` fails, but the gateway starts and logs it, because the other models work.
"""

import asyncio
import os
import shutil
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

import msgspec

from actors.config.certificate import server_context
from actors.config.key_secrets import read_secret
from actors.config.masking import shown
from actors.config.schema import BUILTIN, Config, Model, ServerPool
from actors.demo.model import ARCHITECTURE, CONTEXTS
from actors.errors import ConfigError, Failure, Fault
from actors.gpu.calibration import Calibration
from actors.gpu.monitor import take_sample_in_time
from actors.gpu.observer import device_of
from actors.hub.cache import ModelFiles, cache_of
from actors.memory.collisions import Collision, collisions
from actors.memory.gguf import Header
from actors.placement.ledger import Device
from actors.servers import StartError
from actors.servers.docker.engine import Engine
from actors.servers.llama.appraisal import Predictor
from actors.servers.llama.command import EMBEDDED, command_words, find_command, runs_in_container
from actors.servers.llama.devices import Reach, key_of, reach_of
from actors.servers.llama.embedded import unknown_flag


class Finding(msgspec.Struct, frozen=True):
    """A problem of one model. `failure`: why a request for the model fails now; None if it may work."""

    model: str
    fault: Fault
    failure: Failure | None = None


def look_at_pool(config: Config) -> list[Fault]:
    """Find the faults that keep the gateway from serving, or every model that has no command of its own."""
    pool = config.server_pool
    faults = [
        Fault((section, "host"), "expected an address, got ''; 0.0.0.0 is all of them")
        for section, host in (("server", config.server.host), ("server_pool", pool.host))
        if not host.strip()
    ]
    if config.server.tls.enabled:
        try:
            server_context(config.server.tls)
        except ValueError as error:
            faults.append(Fault(("server", "tls"), str(error)))
    for name, key in config.keys.items():
        if key.secret_file is not None:
            try:
                read_secret(key)
            except ValueError as error:
                faults.append(Fault(("keys", name), str(error)))
    for model in config.llama_cpp.models.values():
        if not (model.command or model.runtime or runs_in_container(pool, model)):
            fault = _command_fault(config, model, ("server_pool",))
            return [*faults, fault] if fault else faults
    return faults


def look_at_models(config: Config, gpus: Sequence[Device] | None = None) -> list[Finding]:
    """Find the problems of each model. `gpus`: this machine's GPUs; None: ask NVML where that matters."""
    models = config.llama_cpp.models
    found: list[Finding] = []
    if gpus is None:
        # With two GPUs every possible collision shows.
        asked = config.gpu.managed and any(
            model.devices or _collisions(config.server_pool, model, 2) for model in models.values()
        )
        gpus = [device_of(gpu, 0) for gpu in take_sample_in_time().gpus] if asked else []
    with closing(Calibration(None)) as nothing_learned:
        predictor = Predictor(config, nothing_learned, list)
        for name, model in models.items():
            place = ("llama_cpp", "models", name)
            found += _look_at_runtime(config, name, model, place)
            reach = _reach(config, model, gpus)
            colliding = _look_at_flags(config, gpus, name, model, place, reach)
            found += colliding or _look_at_files(config, predictor, name, model, place)
            found += _look_at_devices(gpus, name, model, place)
    return found


Place = tuple[str | int, ...]


def _look_at_runtime(config: Config, name: str, model: Model, place: Place) -> list[Finding]:
    pool = config.server_pool
    if runs_in_container(pool, model):
        address = Engine(pool.docker.host).address
        socket = address.removeprefix("unix://")
        if socket != address and not Path(socket).exists():
            message = f"there is no Docker Engine for it: {socket} does not exist (server_pool.docker.host)"
            return [Finding(name, Fault(place, message))]
        return []
    found = []
    if model.image is not None:
        message = "has no effect: the model's runtime is not docker"
        found.append(Finding(name, Fault((*place, "image"), message)))
    found += _look_at_arguments(config, name, model, place)
    if (model.command or model.runtime) and (fault := _command_fault(config, model, place)):
        failure = Failure(message=fault.message, retryable=False)
        found.append(Finding(name, fault, failure))
    return found


def _look_at_arguments(config: Config, name: str, model: Model, place: Place) -> list[Finding]:
    """Find flags that the embedded server does not have."""
    with suppress(ConfigError):
        if find_command(config.server_pool, model) != EMBEDDED:
            return []
    found = []
    for where, arguments in (
        (("server_pool", "arguments"), config.server_pool.arguments),
        ((*place, "arguments"), model.arguments),
    ):
        if (index := unknown_flag(arguments)) is not None:
            message = f"the embedded server does not know {shown(arguments[index])}; llama-server may"
            failure = Failure(message=message, retryable=False)
            found.append(Finding(name, Fault((*where, index), message), failure))
    return found


def _command_fault(config: Config, model: Model, place: Place) -> Fault | None:
    """Say why the model's command cannot be run. `place` is the section that sets the command."""
    try:
        program = find_command(config.server_pool, model)[0]
    except ConfigError as error:
        return Fault((*place, "runtime"), str(error).partition(": ")[2])
    if "/" in program:
        if shutil.which(program, os.F_OK) is None:
            return Fault((*place, "command"), f"there is no program {program}")
        if shutil.which(program) is None:
            return Fault((*place, "command"), f"{program} must not be executed")
    elif shutil.which(program) is None:
        return Fault((*place, "command"), f"there is no program {program!r} on the PATH")
    return None


def _collisions(pool: ServerPool, model: Model, gpus: int) -> list[tuple[Place, Collision]]:
    """Find the arguments that collide with a placement on `gpus` GPUs, and the keys that set them."""
    found: list[tuple[Place, Collision]] = []
    with suppress(ConfigError):
        key: Place = ("command",) if model.command else ("server_pool", "command")
        found += [(key, each) for each in collisions(command_words(pool, model), gpus)]
    above: Place = ("server_pool", "arguments")
    found += [((*above, each.index), each) for each in collisions(pool.arguments, gpus)]
    found += [(("arguments", each.index), each) for each in collisions(model.arguments, gpus)]
    return found


def _reach(config: Config, model: Model, gpus: Sequence[Device]) -> Reach | None:
    """Find the GPUs that the model's server can use, where it matters: asking the program takes a second."""
    pool = config.server_pool
    if runs_in_container(pool, model) or not _collisions(pool, model, len(gpus)):
        return None

    async def ask() -> Reach | None:
        command = find_command(pool, model)
        return await reach_of(command, await key_of(command, (gpu.id for gpu in gpus)))

    try:
        return asyncio.run(ask())
    except ConfigError:
        return None


def _look_at_flags(
    config: Config, gpus: Sequence[Device], name: str, model: Model, place: Place, reach: Reach | None
) -> list[Finding]:
    if reach in ("others", "none"):
        return []
    return [
        Finding(
            name,
            Fault(path if path[0] == "server_pool" else (*place, *path), collision.message),
            Failure(message=collision.message, retryable=False),
        )
        for path, collision in _collisions(config.server_pool, model, len(gpus))
    ]


def _look_at_files(
    config: Config, predictor: Predictor, name: str, model: Model, place: Place
) -> list[Finding]:
    if model.path is not None:
        if model.path.startswith(BUILTIN):
            return _look_at_builtin(predictor, name, model, place)
        files: ModelFiles | None = ModelFiles(
            path=Path(model.path), projector=Path(model.mmproj) if model.mmproj else None
        )
    elif model.hub_name is None:  # reported as a fault of the settings
        return []
    else:
        try:
            files = cache_of(config.hub).find(model.hub_name, model.revision, model.mmproj)
        except OSError as error:
            message = f"the cache cannot be read: {error.filename}: {error.strerror}"
            return [Finding(name, Fault(place, message), Failure(message=message))]
        if files is None and config.hub.offline:
            failure = Failure(message="is not downloaded, and hub.offline is set", retryable=False)
            return [Finding(name, Fault(place, failure.message), failure)]
    if files is None:
        return []
    try:
        predictor.examine(model, files)
    except StartError as error:
        return [Finding(name, Fault(place, error.failure.message), error.failure)]
    return []


def _look_at_builtin(predictor: Predictor, name: str, model: Model, place: Place) -> list[Finding]:
    """Check a built-in model: its file is written on demand, but its context length is known."""
    assert model.path is not None
    context = CONTEXTS[model.path.removeprefix(BUILTIN)]
    metadata = {"general.architecture": ARCHITECTURE, f"{ARCHITECTURE}.context_length": context}
    header = Header(version=3, size=0, data_offset=0, metadata=metadata, lengths={}, tensors=())
    try:
        predictor.check_context(model, header)
    except ValueError as error:
        return [Finding(name, Fault(place, str(error)), Failure(message=str(error), retryable=False))]
    return []


def _look_at_devices(gpus: Sequence[Device], name: str, model: Model, place: Place) -> list[Finding]:
    known = {text for gpu in gpus for text in (str(gpu.index), gpu.id)}
    there_are = ", ".join(f"{gpu.index} ({gpu.id})" for gpu in gpus)
    return [
        Finding(name, Fault((*place, "devices", n), f"there is no GPU {device!r}; there are: {there_are}"))
        for n, device in enumerate(model.devices)
        if gpus and str(device) not in known
    ]
