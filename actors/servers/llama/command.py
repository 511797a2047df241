"""The command of a model server: program, flags and version."""

import asyncio
import importlib.metadata
import importlib.util
import os
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from actors.config.schema import Model, ServerPool
from actors.errors import ConfigError
from actors.hub.cache import ModelFiles
from actors.memory.flags import LAYER_FLAGS, is_given, without
from actors.memory.prediction.settings import LoadSettings
from actors.messages import ServerAddress
from actors.placement.fit import Placement
from actors.runtime import spawn
from actors.servers.child_process import Child

DRAFT_MODEL = ("-md", "--model-draft", "--spec-draft-model")
DRAFT_DEVICE = ("-devd", "--device-draft", "--spec-draft-device")

PROMPT_CACHE = ("-cram", "--cache-ram")
CHECKPOINTS = ("-ctxcp", "--ctx-checkpoints", "--swa-checkpoints")

CHECKOUT = Path(__file__).resolve().parents[3]

EMBEDDED = [sys.executable, "-m", "actors.servers.llama.embedded"]

VERSION_TIMEOUT = 5.0
"""Time-out for a program to print its version. A large program on a slow disk takes seconds at first."""

_VERSION = re.compile(r"version: (\S+(?: \(build [1-9]\d*)?)")


def find_command(pool: ServerPool, model: Model) -> list[str]:
    """Find the command of a model's server, without flags. Raises `ConfigError` if there is none.

    A command of the model or the pool comes first, then `llama-server` on the PATH, then the embedded
    server; `runtime`, the model's or the pool's, can insist on either of the last two. Not for containers.
    """
    runtime = model.runtime or pool.runtime
    # If the other models run in containers, the pool's command is one inside their image.
    command = model.command or (pool.command if pool.runtime != "docker" else None)
    if command and (runtime != "embedded" or model.command):
        return words(command)
    if runtime != "embedded" and (binary := shutil.which("llama-server")):
        return [binary]
    if runtime == "llama-server":
        raise ConfigError(
            "server_pool.runtime: no llama-server on the PATH; install llama.cpp or set server_pool.command"
        )
    if importlib.util.find_spec("xllamacpp") is None:
        raise ConfigError(
            "server_pool.runtime: there is neither a llama-server on the PATH nor the xllamacpp package; "
            "install either one (pip install xllamacpp)"
        )
    return list(EMBEDDED)


def words(command: str | Sequence[str]) -> list[str]:
    """Split a command of the settings, which may be a text or a list."""
    return shlex.split(command) if isinstance(command, str) else list(command)


def command_words(pool: ServerPool, model: Model) -> list[str]:
    """Return the command of a model's server; empty for a container that uses the image's entrypoint."""
    if not runs_in_container(pool, model):
        return find_command(pool, model)
    command = model.command or (pool.command if pool.runtime == "docker" else None)
    return words(command) if command else []


def runs_in_container(pool: ServerPool, model: Model) -> bool:
    """Whether a model's server runs in a container."""
    return (model.runtime or pool.runtime) == "docker"


def server_flags(
    name: str,
    model: Model,
    pool: ServerPool,
    files: ModelFiles,
    endpoint: ServerAddress,
    placement: Placement | None = None,
    *,
    image_tokens: int | None = None,
    needed: Sequence[str] = (),
    settings: LoadSettings | None = None,
    on_cpu: bool = False,
) -> list[str]:
    """Return llama-server's flags for a model. The user's own come last, so that they win.

    `needed` are those that the model's header calls for, `settings` what was predicted for.
    Without a placement, or with one that is not managed, llama.cpp decides where the model goes, and how much
    context fits there; but not a server that runs on the CPU alone (`on_cpu`), which takes what it is told.
    """
    flags = [
        "--model",
        str(files.path),
        "--alias",
        name,
        "--host",
        endpoint.host,
        "--port",
        str(endpoint.port),
    ]
    slots = model.parallel if settings is None else min(model.parallel, settings.parallel)
    flags += ["--parallel", str(slots)]
    if slots > 1:
        flags += ["--kv-unified"]
    own = [*pool.arguments, *model.arguments]
    if placement is not None and placement.managed:
        own = without(own, *LAYER_FLAGS)  # the placement sets the same flags
    flags += _context_flags(model, placement, settings, on_cpu=on_cpu)
    if settings is not None:
        flags += _host_limits(settings, own)
    layers = model.gpu_layers if model.gpu_layers is not None else pool.gpu_layers
    if placement is not None and placement.managed:
        flags += placement.arguments
        if len(placement.shares) > 1 and is_given(own, *DRAFT_MODEL) and not is_given(own, *DRAFT_DEVICE):
            flags += ["--device-draft", "CUDA0"]  # the first GPU has room for it
    elif layers is not None:
        flags += ["--gpu-layers", str(layers)]
    flags += needed
    if image_tokens is not None:
        flags += ["--image-max-tokens", str(image_tokens)]
    if not is_given(own, "-lv", "--verbosity", "--log-verbosity"):
        flags += ["--log-verbosity", "4"]  # the level at which llama.cpp logs the sizes of its buffers
    if pool.prompts.memory is not None:
        flags += ["--cache-ram", str(round(pool.prompts.memory * 1024))]
    if files.projector is not None:
        flags += ["--mmproj", str(files.projector)]
    return [*flags, *own]


def _host_limits(settings: LoadSettings, own: Sequence[str]) -> list[str]:
    """The limits of saved prompts and checkpoints that were reserved, where the user set none."""
    flags = []
    if settings.prompt_cache is not None and not is_given(own, *PROMPT_CACHE):
        flags += ["--cache-ram", str(settings.prompt_cache)]
    if settings.checkpoints is not None and not is_given(own, *CHECKPOINTS):
        flags += ["--ctx-checkpoints", str(settings.checkpoints)]
    return flags


def _context_flags(
    model: Model, placement: Placement | None, settings: LoadSettings | None, *, on_cpu: bool
) -> list[str]:
    """The context, and batches of its size for a model that has to read each text in one of them."""
    context = model.ctx_size
    if (
        placement is not None
        and placement.option.context
        and (placement.managed or (on_cpu and placement.option.shrunk))
    ):
        context = placement.option.context
    if settings is None or not settings.input_limit:
        return [] if context is None else ["--ctx-size", str(context)]
    chosen = msgspec.structs.replace(settings, context=context or settings.context)
    batch = str(chosen.whole_batch)
    return ["--ctx-size", str(chosen.context), "--batch-size", batch, "--ubatch-size", batch]


async def build_of_pool(pool: ServerPool) -> str:
    """Return the version of the pool's default server; empty if there is none."""
    try:
        command = find_command(pool, Model(path=""))
    except ConfigError:  # each model may have its own command, or run in a container
        return ""
    return await build_of(command)


NO_UI = {"LLAMA_ARG_UI": "0", "LLAMA_ARG_WEBUI": "0", "LLAMA_ARG_NO_WEBUI": "1"}
"""Environment variables, old and new, that turn the server's web page off. Other builds ignore them."""


def given_key(argv: Sequence[str]) -> str | None:
    """Return the API key in a server's arguments. Raises `ConfigError` if a key file cannot be read."""
    key = None
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        flag, equals, value = word.partition("=")
        value = value if equals else following
        if flag == "--api-key":
            key = value.partition(",")[0]
        elif flag == "--api-key-file":
            try:
                key = next(filter(None, Path(value).read_text().splitlines()), None)
            except OSError as error:
                raise ConfigError(f"--api-key-file: {value} cannot be read: {error.strerror}") from error
    return key or None


_builds: dict[tuple[str, ...], str] = {}


async def build_of(command: Sequence[str]) -> str:
    """Return the version that a program prints; empty if none. Each program is asked once."""
    if list(command) == EMBEDDED:
        return f"xllamacpp {importlib.metadata.version('xllamacpp')}"
    key = (*command, await asyncio.to_thread(_changed_at, command[0]))
    if key not in _builds:
        _builds[key] = await _ask_version(command)
    return _builds[key]


def _changed_at(program: str) -> str:
    """Return when a program was last changed, because an update keeps its name. Blocking."""
    found = shutil.which(program)
    return str(Path(found).stat().st_mtime_ns) if found else ""


async def _ask_version(command: Sequence[str]) -> str:
    found: list[str] = []

    def on_line(line: str) -> None:
        if match := _VERSION.search(line):
            found.append(match[1].replace("(", ""))

    try:
        child = await Child.start([*command, "--version"], environment={}, on_line=on_line)
    except OSError:
        return ""
    reader = spawn(child.read_output(), name="version of the model server")
    try:
        await child.wait(VERSION_TIMEOUT)
    finally:
        await child.stop(0.0)
        reader.cancel()
    return found[0] if found else ""


def python_path() -> str:
    """Return the environment that makes the embedded server's module importable from any folder."""
    return os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")]))
