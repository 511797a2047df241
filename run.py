#!/usr/bin/env python3
"""Llama Smart Proxy: one address for your local language models.

The composition root: arguments, configuration, signals, exit code.
"""

import argparse
import asyncio
import os
import signal
import socket
import sys
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import aiohttp
import msgspec
import psutil
import structlog
import yaml
from aiohttp import web

from actors.backends import Backend
from actors.backends.children import is_alive, owner_mark, sweep_orphans
from actors.backends.command import build_of, find_command, runs_in_container
from actors.backends.docker import DockerBackend
from actors.backends.llama import Shared, answers
from actors.backends.ports import PortBook
from actors.backends.prediction import Predictor
from actors.backends.process import ProcessBackend
from actors.calibration import CALIBRATION, Calibration
from actors.config import Config, Model, load_config
from actors.docker.containers import Containers
from actors.docker.engine import Engine
from actors.errors import ConfigError
from actors.gpu import GpuMonitor, host_sample, take_sample
from actors.hub.commands import list_models, pull, remove
from actors.hub.hub import Hub
from actors.hub.names import parse_name
from actors.migrate import migrate_file
from actors.model import ModelActor
from actors.observer import Observer
from actors.plan import add_arguments as add_plan_arguments
from actors.plan import plan
from actors.planner import Planner
from actors.roster import ModelSpec, Policy
from actors.supervisor import Adopted, Supervisor
from proxy.app import make_app, make_runner
from proxy.generate import Gateway, Limits
from proxy.logs import set_up_logging
from proxy.metrics import Metrics
from proxy.upstream import Upstream
from proxy.views import Views

VERSION = "0.1.0"
CHECKOUT = Path(__file__).resolve().parent

DRIVER_PATIENCE = 10.0
"""Seconds that the start waits for the GPU driver's first answer."""

COMMANDS = {
    "serve": "run the gateway (default)",
    "check": "validate the configuration and print it in full",
    "pull": "download a model, or what is new of it",
    "models": "list the models there are",
    "rm": "remove a downloaded model",
    "plan": "say where a model would go, and what memory it would take",
    "migrate": "make a config.yaml of a config.json of the first version",
}

log = structlog.get_logger("gateway")


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return the exit status: 0 done, 1 failed, 2 the configuration cannot be used."""
    options = _parse(arguments)
    if options.command == "migrate":
        return migrate_file(options.source, options.output or options.source.with_name("config.yaml"))
    try:
        config = _with_overrides(load_config(options.config), options)
        if options.command in ("serve", "check"):
            for model in config.llama_cpp.models.values():
                if not runs_in_container(config.server_pool, model):
                    find_command(config.server_pool, model)
    except ConfigError as error:
        print(f"run.py: {error}", file=sys.stderr)
        return 2
    if options.command != "serve":
        set_up_logging("warning", "console", sys.stderr)
        return _command(config, options)
    set_up_logging(config.server.log.level, config.server.log.format)
    try:
        import uvloop  # noqa: PLC0415 (absent on Windows, where asyncio's own loop must do)
    except ImportError:
        return asyncio.run(serve(config))
    return uvloop.run(serve(config))


def _command(config: Config, options: argparse.Namespace) -> int:
    """Run another command than `serve`; return the exit status."""
    match options.command:
        case "check":
            print(yaml.safe_dump(msgspec.to_builtins(config), sort_keys=False, allow_unicode=True), end="")
            return 0
        case "pull":
            return asyncio.run(pull(config, options.name))
        case "models":
            return list_models(config)
        case "rm":
            return remove(config, options.name)
        case _:
            return plan(config, options, _cache_folder())


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="run.py",
        description="One address for your local language models: loads llama.cpp servers on demand.",
    )
    parser.add_argument("--version", action="version", version=f"llama-smart-proxy {VERSION}")
    _add_common(parser, config=CHECKOUT / "config.yaml")
    parser.set_defaults(command="serve")
    commands = parser.add_subparsers(metavar="COMMAND")
    for name, what in COMMANDS.items():
        command = commands.add_parser(name, help=what, description=what)
        command.set_defaults(command=name)
        _add_common(command)  # before or after the command, as one likes
        if name == "plan":
            add_plan_arguments(command)
        elif name == "migrate":
            command.add_argument("source", type=Path, metavar="CONFIG.JSON", help="the old configuration")
            command.add_argument(
                "--output", type=Path, metavar="FILE", help="where to write (default: config.yaml beside it)"
            )
        elif name in ("pull", "rm"):
            command.add_argument("name", metavar="NAME", help="org/repo:variant, or a configured model")
    return parser.parse_args(arguments)


def _add_common(parser: argparse.ArgumentParser, config: Path | None = None) -> None:
    """The options of every command. Without a default, one given before the command stands."""
    default = None if config else argparse.SUPPRESS
    parser.add_argument(
        "--config",
        type=Path,
        default=config or argparse.SUPPRESS,
        metavar="FILE",
        help="the configuration (default: config.yaml beside run.py, which documents every key)",
    )
    parser.add_argument("--host", default=default, help="address to listen on, instead of server.host")
    parser.add_argument(
        "--port", type=int, default=default, help="port to listen on, instead of server.port; 0: any free one"
    )
    parser.add_argument("--log-level", default=default, choices=("debug", "info", "warning", "error"))


def _with_overrides(config: Config, options: argparse.Namespace) -> Config:
    server = config.server
    if options.host is not None:
        server = msgspec.structs.replace(server, host=options.host)
    if options.port is not None:
        if not 0 <= options.port <= 65535:
            raise ConfigError(f"--port: expected 0 to 65535, got {options.port}")
        server = msgspec.structs.replace(server, port=options.port)
    if options.log_level is not None:
        server = msgspec.structs.replace(
            server, log=msgspec.structs.replace(server.log, level=options.log_level)
        )
    return msgspec.structs.replace(config, server=server)


async def serve(config: Config) -> int:
    """Serve until SIGTERM or SIGINT; then drain, stop the model servers, and return 0."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(_number: int, _frame: object) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(stop.set)

    # Not the loop's own handlers: they end before the process, which a second TERM would then kill.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    if swept := await asyncio.to_thread(sweep_orphans):
        log.warning("killed model servers that a dead gateway left behind", pids=swept)
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(health_session())
        observer = await _start_observer(config, stack)
        monitor = observer.monitor
        downloads = await stack.enter_async_context(aiohttp.ClientSession())
        hub = Hub(config.hub, downloads, memory=lambda: _memory(monitor))
        containers = make_containers(config, session, observer)
        stack.push_async_callback(containers.close)
        supervisor = make_supervisor(config, session, hub, observer, containers)
        upstream = Upstream(silence_limit=config.server_pool.request_timeout)
        stack.push_async_callback(upstream.close)
        gateway = make_gateway(config, supervisor, upstream)
        views = Views(supervisor, hub, observer, config, version=VERSION)
        metrics = Metrics(supervisor, monitor, version=VERSION)
        runner = make_runner(make_app(gateway, views, metrics))
        await runner.setup()
        supervisor.start()
        try:
            await web.TCPSite(runner, config.server.host, config.server.port, backlog=1024).start()
        except OSError as error:
            reason = error.strerror or str(error)
            log.critical("cannot listen", host=config.server.host, port=config.server.port, reason=reason)
            await supervisor.shut_down(0)
            await runner.cleanup()
            return 1
        for address in runner.addresses:
            log.info("listening", url=f"http://{address[0]}:{address[1]}", version=VERSION, pid=os.getpid())
        if uses_containers(config):
            containers.start()  # not before it listens: whoever has the address has the containers
        await stop.wait()
        log.info("shutting down", drain_timeout=config.server.drain_timeout)
        await supervisor.shut_down(config.server.drain_timeout)
        await runner.cleanup()
    log.info("stopped")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # all is done; the interpreter needs a moment to end
    return 0


def _memory(monitor: GpuMonitor) -> int:
    """Bytes that models can have on this machine at most."""
    return psutil.virtual_memory().total + sum(gpu.total for gpu in monitor.gpus)


def health_session() -> aiohttp.ClientSession:
    """For health checks: a server that is still loading may take a while to say so."""
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5))


async def _start_observer(config: Config, stack: AsyncExitStack) -> Observer:
    """The one who watches the memory. It has had a first look, unless the driver takes its time."""
    gpu = config.gpu
    monitor = GpuMonitor(gpu.monitoring_interval, take_sample if gpu.managed else host_sample)
    calibration = await asyncio.to_thread(Calibration, _cache_folder() / CALIBRATION)
    stack.push_async_callback(asyncio.to_thread, calibration.close)
    monitor.start()
    stack.push_async_callback(monitor.stop)
    observer = Observer(monitor, calibration, manages=gpu.managed)
    with suppress(ConfigError):  # each model may have a command of its own, or be a container
        observer.build = await build_of(find_command(config.server_pool, Model(path="")))
    try:
        async with asyncio.timeout(DRIVER_PATIENCE):
            await monitor.first()
            await observer.refresh()
    except TimeoutError:
        log.warning("the GPU driver does not answer", seconds=DRIVER_PATIENCE)
    return observer


def uses_containers(config: Config) -> bool:
    """Whether any model's server may be a container."""
    pool = config.server_pool
    return pool.runtime == "docker" or any(
        runs_in_container(pool, model) for model in config.llama_cpp.models.values()
    )


def make_containers(config: Config, session: aiohttp.ClientSession, observer: Observer) -> Containers:
    """The containers of this gateway. It has them by its address, or if that is any, as long as it lives."""
    server, machine = config.server, socket.gethostname()
    process = f"process of {machine} "
    identity = f"{machine} {server.host}:{server.port}" if server.port else f"{process}{owner_mark()}"
    containers = Containers(
        Engine(config.server_pool.docker.host),
        name=config.server_pool.docker.name,
        identity=identity,
        is_dead=lambda other: other.startswith(process) and not is_alive(other.removeprefix(process)),
        answers=lambda host, port: answers(session, host, port),
        on_left_over=observer.report_again,
    )
    observer.left_over = containers.left_over
    return containers


def make_supervisor(
    config: Config, session: aiohttp.ClientSession, hub: Hub, observer: Observer, containers: Containers
) -> Supervisor:
    """The supervisor with one actor per configured model; nothing runs before `start`."""
    pool = config.server_pool
    predictor = Predictor(config, observer.calibration, lambda: [gpu.total for gpu in observer.monitor.gpus])
    ports = PortBook(pool.host, pool.port_start)
    shared = Shared(config, hub, session, ports, predictor, _cache_folder())

    def make_backend(name: str, model: Model) -> Backend:
        if runs_in_container(pool, model):
            # Where the GPUs are not managed the monitor knows of none.
            return DockerBackend(
                name, model, shared, containers=containers, gpus=lambda: observer.monitor.gpus
            )
        return ProcessBackend(name, model, shared)

    def make_actor(name: str, model: Model) -> ModelActor:
        backend = make_backend(name, model)
        return ModelActor(name, backend, supervisor.tell, stall_timeout=pool.health_timeout)

    def adopt(name: str) -> Adopted | None:
        """A model that a request names by its repository, if `hub.allow` lets it."""
        hub_name = parse_name(name)
        if hub_name is None or not hub.allows(hub_name):
            return None
        model = Model(repo=hub_name.repo, variant=hub_name.variant)
        return ModelSpec.of(name, model), make_actor(name, model)

    models = config.llama_cpp.models
    actors: dict[str, ModelActor] = {}
    supervisor = Supervisor(Planner(Policy.of(config), _specs(models)), actors, adopt, observer)
    for name, model in models.items():
        actors[name] = make_actor(name, model)
    return supervisor


def _specs(models: dict[str, Model]) -> list[ModelSpec]:
    """The models as the planner knows them. One of a hub answers to its name there too."""
    taken = {name for known, model in models.items() for name in (known, *model.aliases)}
    specs = []
    for name, model in models.items():
        aliases = list(model.aliases)
        if model.hub_name and (hub_name := str(model.hub_name)) not in taken:
            taken.add(hub_name)
            aliases.append(hub_name)
        specs.append(ModelSpec.of(name, model, aliases))
    return specs


def make_gateway(config: Config, supervisor: Supervisor, upstream: Upstream) -> Gateway:
    """What the handlers of the front door share."""
    limits = Limits(
        body=config.server.max_body_mb * 2**20,
        queue_timeout=config.server_pool.queue_timeout,
        write_timeout=config.server.write_timeout,
        keepalive_interval=config.server.keepalive_interval,
    )
    return Gateway(supervisor, upstream, limits)


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(base) / "llama-smart-proxy"


if __name__ == "__main__":
    sys.exit(main())
