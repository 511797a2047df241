"""`run.py serve`: builds all parts, and runs them until the shutdown."""

import argparse
import asyncio
import gc
import os
import ssl
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import psutil
import structlog

from actors.build import ModelFactory, make_containers, uses_containers
from actors.commands.arguments import VERSION
from actors.commands.effective_config import read, reread, tell
from actors.config.file import ConfigFile
from actors.config.schema import Config, Server, authority
from actors.errors import ConfigError
from actors.folders import (
    cache_folder,
    data_folder,
    keys_file,
    prompts_folder,
    responses_file,
    unwritable,
)
from actors.gpu.calibration import CALIBRATION, Calibration
from actors.gpu.monitor import GpuMonitor, host_sample, take_sample
from actors.gpu.observer import Observer
from actors.hub.download import download_session
from actors.hub.hub import Hub
from actors.model_names import parse_name
from actors.processes import sweep_orphans
from actors.prompts.economics import LIMIT
from actors.prompts.keeping import Prompts
from actors.runtime import spawn
from actors.servers.llama.appraisal import forgive_lost
from actors.servers.llama.command import build_of_pool
from actors.servers.ollama.daemons import Daemons
from actors.supervisor import Supervisor
from actors.terminal import program
from agents.host.check import LoadedAgents, look, look_ahead
from agents.host.host import AgentHost
from agents.host.settings import default_agents
from proxy.access.configured import configured_keys
from proxy.access.gate import NO_KEY, Gate
from proxy.access.store import KeyStore, KeyStoreError
from proxy.admin.configuration import ConfigViews
from proxy.admin.control import Control
from proxy.admin.doctor import DoctorView
from proxy.admin.hub import HubViews
from proxy.admin.keys import KeyViews
from proxy.admin.live.parts import LiveState
from proxy.admin.logs import LogViews
from proxy.admin.other_routers import OtherRouters
from proxy.admin.plan import PlanView
from proxy.admin.usage import UsageViews
from proxy.answers.agent_calls import Models
from proxy.answers.call import ModelCaller, RequestLimits
from proxy.app import ORIGINS, Handlers, make_app
from proxy.catalog import Catalog
from proxy.door.bodies import BODIES
from proxy.door.certificate import Certificate
from proxy.door.connections import (
    BACKLOG,
    ConnectionRules,
    Site,
    listening,
    make_runner,
    on_loopback,
)
from proxy.door.origins import Origins
from proxy.door.parsing import BASE_PATH
from proxy.door.tap import CAPTURES
from proxy.handlers.agents import AgentViews
from proxy.handlers.generate import Generate
from proxy.handlers.health import Views
from proxy.handlers.models import ModelViews
from proxy.handlers.ollama_models import OllamaApi
from proxy.handlers.ollama_store import OllamaStore
from proxy.handlers.passthrough import Passing
from proxy.handlers.readiness import Readiness, needed_folders
from proxy.handlers.responses.routes import Responses
from proxy.handlers.responses.store import ResponseStore
from proxy.metrics import Metrics
from proxy.page.files import read_page
from proxy.page.serving import PageViews
from proxy.reload import Parts, Reloader
from proxy.service.logs import LAST_WORDS, LATEST, set_level, set_up_logging, take_over_output
from proxy.service.preload import preload
from proxy.service.service_manager import ServiceManager
from proxy.service.signals import Signals
from proxy.usage.records import UsageRecords
from proxy.wire.upstream import Upstream

GC_THRESHOLDS = (50_000, 20, 20)
"""Thresholds of Python's garbage collector, whose defaults would scan 30,000 new messages forty times."""

FAREWELL = 20.0
"""Seconds for the rest of the shutdown after the model servers have stopped: agents' work, containers."""

log = structlog.get_logger("gateway")


def run(options: argparse.Namespace) -> int:
    """Serve; return the exit status."""
    settings, config = read(options)
    checked = look(settings, config)
    if lines := settings.report(checked.faults):
        return tell(lines)
    writer = set_up_logging(config.server.log.level, config.server.log.format, 1)
    take_over_output()
    try:
        return _serve(Reloader(settings, lambda: reread(options)), settings, checked.agents)
    finally:
        writer.close(LAST_WORDS)


def _serve(reloader: Reloader, settings: ConfigFile, agents: LoadedAgents) -> int:
    """Run `serve` on an event loop."""
    try:
        import uvloop  # noqa: PLC0415 (absent on Windows, where asyncio's own loop must do)

        run_loop: Callable[[Coroutine[Any, Any, int]], int] = uvloop.run
    except ImportError:
        run_loop = asyncio.run
    try:
        return run_loop(serve(reloader, settings, agents))
    except Exception:
        log.critical("the gateway has failed", exc_info=True)
        return 1


async def serve(reloader: Reloader, settings: ConfigFile, agents: LoadedAgents) -> int:
    """Serve until SIGTERM or SIGINT; then drain, stop the model servers, and return 0.

    A second SIGTERM or SIGINT ends the drain. SIGHUP reloads the configuration.
    """
    config = settings.config
    signals = Signals()
    manager = ServiceManager(os.environ)
    await _look_around(config)
    async with AsyncExitStack() as stack:
        stack.callback(manager.close)
        try:
            sockets = listening(config.server.host, config.server.port)
        except OSError as error:
            reason = error.strerror or str(error)
            log.critical("cannot listen", host=config.server.host, port=config.server.port, reason=reason)
            return 1
        for one in sockets:
            stack.callback(one.close)
        tls = await _take_certificate(config, stack)
        gate = await _open_gate(config, stack, reachable=not on_loopback(sockets))
        if gate is None:
            return 2
        await _build(reloader, agents, gate, signals, stack)
        parts = reloader.parts
        supervisor, agent_host, runner = parts.factory.supervisor, parts.agents, parts.runner
        await runner.setup()
        supervisor.start()
        try:
            await agent_host.start()
        except ConfigError as error:
            log.critical("cannot start", reason=str(error))
            await supervisor.shut_down(0)
            await runner.cleanup()
            return 2
        looking = spawn(look_ahead(settings, config, supervisor), name="look at the models")
        stack.callback(looking.cancel)
        for one in sockets:
            await Site(runner, one, ssl_context=tls, backlog=BACKLOG).start()
        # Present objects stay, and a large request makes many objects at once, none of them garbage.
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        addresses = [authority(host, port) for host, port, *_ in runner.addresses]
        for address in addresses:
            url = f"{config.server.scheme}://{address}{config.server.base_path}"
            log.info("listening", url=url, version=VERSION, pid=os.getpid())
        manager.ready("listening on " + ", ".join(addresses))
        if uses_containers(config):
            parts.containers.start()  # only after it listens: the address identifies the owner of containers
        reloads = spawn(reloader.run(signals.reload), name="reloads")
        preloading = spawn(preload(config, supervisor), name="preload")
        await signals.stop.wait()
        preloading.cancel()
        reloads.cancel()
        await reloader.close()
        await _shut_down(reloader, signals, manager)
    log.info("stopped")
    signals.ignore()
    return 0


async def _open_gate(config: Config, stack: AsyncExitStack, *, reachable: bool) -> Gate | None:
    """Read the keys; None, with a line in the log, if the gateway must not start.

    `reachable`: other machines can connect, so that requests need a key.
    """
    try:
        keys = await asyncio.to_thread(configured_keys, config)
        gate = Gate(KeyStore(keys_file()), keys, is_open=config.server.open, is_reachable=reachable)
        stack.callback(gate.close)
        await asyncio.to_thread(gate.load)
    except (KeyStoreError, ConfigError) as error:
        log.critical("cannot start", reason=str(error))
        return None
    if reachable and not (gate.has_keys or config.server.open):
        log.critical("cannot start", reason=NO_KEY.format(host=config.server.host, program=program()))
        return None
    stack.callback(spawn(gate.run(), name="keys").cancel)
    return gate


async def _take_certificate(config: Config, stack: AsyncExitStack) -> ssl.SSLContext | None:
    """Return the TLS context, whose certificate is watched until `stack` ends; None for plain HTTP."""
    if not config.server.tls.enabled:
        return None
    certificate = await asyncio.to_thread(Certificate, config.server.tls)
    stack.callback(spawn(certificate.watch(), name="certificate").cancel)
    return certificate.context


async def _hasten(hurry: asyncio.Event, supervisor: Supervisor) -> None:
    await hurry.wait()
    log.warning("a second signal ends the drain")
    supervisor.hasten()


async def _shut_down(reloader: Reloader, signals: Signals, manager: ServiceManager) -> None:
    """Let running requests finish, and stop the model servers and the agents."""
    config, parts = reloader.config, reloader.parts
    drain_timeout = config.server.drain_timeout if signals.drain_timeout is None else signals.drain_timeout
    log.info("shutting down", drain_timeout=drain_timeout)
    needed = drain_timeout + LIMIT + config.server_pool.stop_timeout + FAREWELL
    manager.stopping("running requests finish, then model servers stop", needed)
    impatience = spawn(_hasten(signals.hurry, parts.factory.supervisor), name="second signal")
    parts.agents.rest()
    await parts.factory.supervisor.shut_down(drain_timeout)
    impatience.cancel()
    await parts.runner.cleanup()
    await parts.agents.stop()


async def _look_around(config: Config) -> None:
    """End a dead gateway's processes, and log missing dependencies."""
    if swept := await asyncio.to_thread(sweep_orphans):
        log.warning("killed model servers that a dead gateway left behind", pids=swept)
    for one in await asyncio.to_thread(unwritable, needed_folders(config, cache_folder())):
        log.error(
            "cannot write to a folder",
            folder=one.folder,
            reason=one.reason,
            cure=one.cure,
            needed_for=one.needed_for,
        )


async def _build(
    reloader: Reloader, agents: LoadedAgents, gate: Gate, signals: Signals, stack: AsyncExitStack
) -> None:
    """Build all parts without starting them, for the reloader too. `stack` closes them again."""
    current = reloader.current
    config = current.config
    usage = await stack.enter_async_context(UsageRecords(config.usage).running())
    session = await stack.enter_async_context(health_session())
    observer = await _start_observer(config, stack)
    monitor = observer.monitor
    downloads = await stack.enter_async_context(download_session())
    agents_http = await stack.enter_async_context(aiohttp.ClientSession())
    hub = Hub(config.hub, downloads, memory=lambda: _memory(monitor))
    # A separate session without a limit: a hundred slow downloads must not make a daemon look dead.
    talks, passes = [
        await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        for _ in range(2)
    ]
    daemons = await stack.enter_async_context(Daemons(config.ollama, talks).running())
    containers = make_containers(config, session, observer)
    stack.push_async_callback(containers.close)
    await asyncio.to_thread(forgive_lost, observer.calibration, lambda name: _may_be_asked(config, hub, name))
    upstream = Upstream(silence_limit=config.server_pool.request_timeout)
    stack.push_async_callback(upstream.close)
    prompts = Prompts(session, prompts_folder(config.server.port), config.server_pool.prompts)
    await prompts.open()
    stack.push_async_callback(prompts.close)
    factory = ModelFactory(
        config, session, hub, observer, daemons, containers, cache_folder(), upstream, gate.weights, prompts
    )
    supervisor = factory.supervisor
    catalog = Catalog(supervisor, hub, daemons, current)
    caller = make_model_caller(config, supervisor, upstream, daemons, prompts)
    models = Models(caller, catalog)
    loaded, broken = agents
    for error in broken:
        log.error("agent left out", reason=str(error))
    agent_host = AgentHost(
        loaded,
        llm=models,
        http=agents_http,
        folder=data_folder(config.agent_data),
        memory=lambda model: observer.last_load(supervisor.resolve(model) or model),
        defaults=default_agents(config),
        skip_broken=config.skip_broken_agents,
    )
    generate = Generate(caller, catalog, agent_host)
    passing = Passing(supervisor, caller, catalog, agent_host)
    readiness = Readiness(supervisor, current, containers.engine, daemons, monitor)
    views = Views(supervisor, catalog, observer, current, version=VERSION)
    store = OllamaStore(caller, catalog, hub, passes)
    ollama = OllamaApi(catalog, store)
    store_of_responses = ResponseStore(responses_file(), config.server.keep_responses)
    await store_of_responses.start()
    responses = Responses(generate, store_of_responses)
    stack.push_async_callback(responses.close)
    metrics = Metrics(supervisor, monitor, readiness, usage, version=VERSION)
    live = LiveState(supervisor, catalog, views)
    control = Control(supervisor, catalog, hub, live)
    models.accounts = accounts = (metrics.account, gate.settle, *usage.accounts)
    models.key_of = gate.key_named
    handlers = Handlers(
        generate=generate,
        passing=passing,
        views=views,
        models=ModelViews(catalog),
        readiness=readiness,
        ollama=ollama,
        agents=AgentViews(agent_host),
        responses=responses,
        metrics=metrics,
        live=live,
        admin=(
            *PlanView(supervisor).routes,
            *control.routes,
            *KeyViews(gate, keys_file()).routes,
            *HubViews(hub, catalog, live, factory.consider).routes,
            *OtherRouters(supervisor, control).routes,
            *LogViews(LATEST, factory.server_lines, catalog, supervisor.finished.is_set).routes,
            *DoctorView(current, reloader.files[0]).routes,
            *ConfigViews(reloader, signals.drain).routes,
            *UsageViews(usage).routes,
        ),
        page=PageViews(await asyncio.to_thread(read_page)),
    )
    accounts = (*accounts, live.feed.account)
    app = make_app(handlers, _origins(config.server, gate), gate, accounts)
    app[CAPTURES], app[BASE_PATH] = usage.captures, config.server.base_path
    runner = make_runner(app, accounts, ConnectionRules.of(config))
    reloader.parts = Parts(
        factory=factory,
        observer=observer,
        containers=containers,
        agents=agent_host,
        gate=gate,
        origins=app[ORIGINS],
        bodies=app[BODIES],
        caller=caller,
        upstream=upstream,
        responses=store_of_responses,
        usage=usage,
        runner=runner,
        set_log_level=set_level,
        publish=live.feed.publish,
        preload=lambda config: preload(config, supervisor),
    )


def _origins(server: Server, gate: Gate) -> Origins:
    return Origins(server.allowed_origins, server.allowed_hosts, checks_hosts=not gate.is_reachable)


def _may_be_asked(config: Config, hub: Hub, name: str) -> bool:
    """Whether a request can name this llama.cpp model."""
    found = parse_name(name)
    return name in config.llama_cpp.models or (found is not None and hub.allows(found))


def _memory(monitor: GpuMonitor) -> int:
    """Return the most bytes that models can have on this machine."""
    return psutil.virtual_memory().total + sum(gpu.total for gpu in monitor.gpus)


def health_session() -> aiohttp.ClientSession:
    """Open a session for health checks. A loading server may take a while to answer.

    Connections are not kept alive, because each would occupy one of the server's threads for 5 s.
    """
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=5))


async def _start_observer(config: Config, stack: AsyncExitStack) -> Observer:
    """Start the observer of the memory, and wait for its first sample."""
    gpu = config.gpu
    monitor = GpuMonitor(gpu.monitoring_interval, take_sample if gpu.managed else host_sample)
    calibration = await asyncio.to_thread(Calibration, cache_folder() / CALIBRATION)
    stack.push_async_callback(asyncio.to_thread, calibration.close)
    monitor.start()
    stack.push_async_callback(monitor.stop)
    observer = Observer(monitor, calibration, manages=gpu.managed)
    observer.build = await build_of_pool(config.server_pool)
    await monitor.wait_first()  # a sample of the host alone if the driver hangs
    await observer.refresh()
    return observer


def make_model_caller(
    config: Config, supervisor: Supervisor, upstream: Upstream, daemons: Daemons, prompts: Prompts
) -> ModelCaller:
    """Make the caller that sends requests to models for clients and agents."""
    return ModelCaller(supervisor, upstream, RequestLimits.of(config), daemons.look_soon, prompts)
