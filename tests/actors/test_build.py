"""Reloads of the models: whatever is configured before, the end is as after a start."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import aiohttp
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from actors.build import ModelFactory
from actors.config.changes import applicable, launch_of
from actors.config.checks import check
from actors.config.file import parse_config
from actors.config.schema import Config, Model, PromptSettings
from actors.errors import ConfigError
from actors.gpu.calibration import Calibration
from actors.gpu.monitor import GpuMonitor
from actors.gpu.observer import Observer
from actors.hub.hub import Hub
from actors.model_actor import ModelActor
from actors.prompts.keeping import Prompts
from actors.scheduler.lifecycle import State
from actors.scheduler.planner import Planner
from actors.servers.docker.containers import Containers
from actors.servers.liveness import NO_REQUESTS
from actors.servers.ollama.backend import OllamaBackend
from actors.servers.ollama.daemons import Daemons
from tests.actors.fake_backend import FakeBackend
from tests.effort import examples

NOTHING_LEARNED = Calibration(None)
NAMES = ("a", "b", "c")
ADOPTED = "org/m:Q4_K_M"


class MadeBackend(FakeBackend):
    """A fake of what the settings say."""

    def __init__(self, model: Model, config: Config) -> None:
        super().__init__()
        self.model = model
        self.pool = config.server_pool


class Factory(ModelFactory):
    """Makes fakes of llama.cpp's servers."""

    def _of_llama_cpp(self, name: str, model: Model) -> ModelActor:
        return self._actor(name, MadeBackend(model, self._config))


@asynccontextmanager
async def made(config: Config) -> AsyncIterator[Factory]:
    """A factory of a configuration, and its running supervisor."""
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        factory = Factory(
            config,
            session,
            Hub(config.hub, session),
            Observer(GpuMonitor(0), NOTHING_LEARNED, manages=False),
            await stack.enter_async_context(Daemons(config.ollama, session).running()),
            cast("Containers", None),
            Path("/nowhere"),
            NO_REQUESTS,
            {},
            Prompts(session, Path("/nowhere"), PromptSettings(disk=0)),
        )
        factory.supervisor.start()
        yield factory
        await factory.supervisor.shut_down(1)


def state_of(factory: Factory) -> list[Any]:
    """All that the settings decide, of the planner, and of each model and the backend of its next server."""
    planner: Planner = factory.supervisor._planner
    found: list[Any] = [planner._policy, planner.ledger.headroom, factory._hub._settings]
    found += [factory._daemons.settings, factory._shared.config, sorted(planner._models._names)]
    for name, model in planner._models.named.items():
        actor = factory.supervisor.actor_of(name)
        assert actor is not None
        backend = cast("Any", actor.latest)
        if isinstance(backend, OllamaBackend):
            made: Any = (
                backend._model,
                backend.daemon.url,
                backend._pull,
                backend._context,
                backend._elsewhere,
            )
        else:
            made = (backend.model, backend.pool)
        found.append((model.spec, made, actor._stall_timeout))
    return found


def models_of(draw: st.DrawFn) -> dict[str, Any]:
    names = draw(st.lists(st.sampled_from(NAMES), unique=True))
    aliases = st.lists(st.sampled_from(["x", "y", "org/m:Q4_K_M"]), max_size=1)
    return {
        name: {
            "path": f"/{name}.gguf",
            "ctx_size": draw(st.sampled_from([None, None, 1024])),
            "priority": draw(st.integers(0, 2)),
            "aliases": draw(aliases),
            "gpu_layers": draw(st.sampled_from([None, 3])),
        }
        for name in names
    }


@st.composite
def configs(draw: st.DrawFn) -> Config:
    data: dict[str, Any] = {
        "server": {"port": draw(st.integers(1, 2))},
        "server_pool": {
            "size": draw(st.sampled_from([0, 4, 5])),
            "idle_timeout": draw(st.sampled_from([0, 900])),
            "health_timeout": draw(st.sampled_from([5, 6])),
            "arguments": draw(st.sampled_from([[], [], ["--threads", "1"]])),
            "gpu_layers": draw(st.sampled_from([None, None, 2])),
        },
        "gpu": {"headroom": draw(st.integers(0, 1)), "dry_run": draw(st.booleans())},
        "hub": {"allow": draw(st.sampled_from([[], ["org/*"]])), "offline": draw(st.booleans())},
        "llama_cpp": {"models": models_of(draw)},
    }
    if draw(st.booleans()):
        served = draw(st.dictionaries(st.sampled_from(["a", "o"]), st.just({"ctx_size": 512}), max_size=1))
        host, elsewhere = draw(st.sampled_from(["127.0.0.1", "127.0.0.2"])), draw(st.booleans())
        data["ollama"] = {"host": host, "pull": draw(st.booleans()), "models": served}
        data["ollama"]["elsewhere"] = ["ollama"] if elsewhere else []
    try:
        return parse_config(data, folder=Path("/"))
    except ConfigError:  # a name that two models have
        assume(condition=False)
        raise


async def _load(factory: Factory, name: str, held: AsyncExitStack) -> int:
    """Lease a model until `held` ends; the epoch of its server."""
    lease = await held.enter_async_context(factory.supervisor.lease(name, timeout=10))
    lease.served = True
    return lease.grant.epoch


def _launch_of(config: Config, name: str) -> Any:
    if name in config.llama_cpp.models:
        return launch_of(config, name)
    return config.server_pool.arguments, config.server_pool.gpu_layers


async def _reload(before: Config, after: Config, wanted: set[str]) -> None:
    """Reload while models answer requests; then compare with a start, and look at their servers."""
    async with made(before) as factory, made(after) as fresh, AsyncExitStack() as held:
        supervisor = factory.supervisor
        own = {name for name in wanted if supervisor.resolve(name) == name}
        unknown = supervisor.resolve(ADOPTED) is None
        adopts = ADOPTED in wanted and unknown and supervisor.would_adopt(ADOPTED)
        loaded = sorted(own - set(before.ollama.models) | ({ADOPTED} if adopts else set()))
        epochs = {name: await _load(factory, name, held) for name in loaded}
        factory.reconfigure(after)
        assert all(model.busy for model in supervisor.describe() if model.name in loaded), "requests go on"
        await held.aclose()

        def ends() -> bool:
            return any(one.state in (State.DRAINING, State.STOPPING) for one in supervisor.describe())

        while ends():  # noqa: ASYNC110 (it is seen from outside only)
            await asyncio.sleep(0)
        if adopts and fresh.supervisor.resolve(ADOPTED) is None and fresh.supervisor.would_adopt(ADOPTED):
            assert supervisor.resolve(ADOPTED) == ADOPTED, "what a request named stays while it may"
            await _load(fresh, ADOPTED, held)
        assert state_of(factory) == state_of(fresh)
        for name in loaded:
            if supervisor.resolve(name) != name or name in after.ollama.models:
                continue
            epoch = await _load(factory, name, held)
            assert (epoch == epochs[name]) == (_launch_of(before, name) == _launch_of(after, name))


@settings(max_examples=examples(200), deadline=None)
@given(configs(), configs(), st.sets(st.sampled_from([*NAMES, ADOPTED])))
def test_a_reload_ends_as_a_start_does(before: Config, wanted: Config, loaded: set[str]) -> None:
    after = applicable(before, wanted)
    assume(not check(after))
    asyncio.run(_reload(before, after, loaded))
