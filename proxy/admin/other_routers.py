"""The routes by which tools for llama-swap and for llama.cpp's router list, load and unload models."""

import asyncio
from collections.abc import Sequence

import msgspec
from aiohttp import web

from actors.scheduler.lifecycle import State
from actors.scheduler.model_states import ModelStatus
from actors.supervisor import Supervisor
from proxy.admin.control import AT_REST, Control, raise_failure
from proxy.admin.routes import Route, json_answer
from proxy.apis.requests import parse_body
from proxy.door.bodies import BODIES
from proxy.errors import ApiError
from proxy.exchange import EXCHANGE

UNLOAD_PATIENCE = 10.0
"""Most seconds for which an answer waits until models have stopped."""

SWAP_STATES = {
    State.STARTING: "starting",
    State.READY: "ready",
    State.DRAINING: "ready",
    State.STOPPING: "stopping",
}
"""llama-swap's names for the states of models that run; it lists no others."""

CONTROLS = frozenset(
    {
        ("GET", "/unload"),
        ("POST", "/unload"),
        ("POST", "/api/models/unload"),
        ("POST", "/api/models/unload/{name}"),
        ("POST", "/models/load"),
        ("POST", "/models/unload"),
    }
)
"""Methods and paths that need what `/admin` needs."""


class SwapModel(msgspec.Struct, frozen=True, kw_only=True):
    """A running model, as llama-swap describes it. `ttl`: idle seconds until it is unloaded; 0 for never."""

    model: str
    state: str
    cmd: str = ""
    proxy: str
    ttl: int
    name: str = ""
    description: str = ""


class SwapModels(msgspec.Struct, frozen=True):
    """The running models."""

    running: Sequence[SwapModel]


class SwapDone(msgspec.Struct, frozen=True):
    """llama-swap's answer when all models are unloaded."""

    msg: str = "ok"


class RouterRequest(msgspec.Struct, frozen=True):
    """The body of llama.cpp's requests."""

    model: str


class RouterDone(msgspec.Struct, frozen=True):
    """llama.cpp's answer."""

    success: bool = True


class OtherRouters:
    """The handlers."""

    def __init__(self, supervisor: Supervisor, control: Control) -> None:
        self._supervisor = supervisor
        self._control = control

    @property
    def routes(self) -> tuple[Route, ...]:
        """The routes."""
        one = RouterRequest
        return (
            Route(method="GET", path="/running", handler=self.running, answer=SwapModels),
            Route(method="GET", path="/unload", handler=self.unload_all),
            Route(method="POST", path="/unload", handler=self.unload_all),
            Route(method="POST", path="/api/models/unload", handler=self.unload_all_json, answer=SwapDone),
            Route(method="POST", path="/api/models/unload/{name:.+}", handler=self.unload_one),
            Route(method="POST", path="/models/load", handler=self.load, answer=RouterDone, body=one),
            Route(method="POST", path="/models/unload", handler=self.unload, answer=RouterDone, body=one),
        )

    # llama-swap

    async def running(self, request: web.Request) -> web.Response:
        """List the running models, as llama-swap does."""
        may_use = request[EXCHANGE].may_use
        models = [_swap_model(model) for model in self._running() if may_use(model.name, *model.aliases)]
        return json_answer(SwapModels(sorted(models, key=lambda model: model.model)))

    async def unload_all(self, request: web.Request) -> web.Response:
        """Unload all models after their requests, as llama-swap's `/unload`."""
        request[EXCHANGE].quiet = False
        await self._unload(self._running())
        return web.Response(text="OK")

    async def unload_all_json(self, _request: web.Request) -> web.Response:
        """Unload all models after their requests, as llama-swap's page does."""
        await self._unload(self._running())
        return json_answer(SwapDone())

    async def unload_one(self, request: web.Request) -> web.Response:
        """Unload one model after its requests, as llama-swap's page does."""
        await self._unload([await self._control.known(request.match_info["name"])])
        return web.Response(text="OK")

    def _running(self) -> list[ModelStatus]:
        return [model for model in self._supervisor.describe() if model.state in SWAP_STATES]

    async def _unload(self, models: Sequence[ModelStatus]) -> None:
        for model in models:
            self._control.begin_unload(model.name)
        for model in models:
            await self._control.wait_unloaded(model, UNLOAD_PATIENCE)

    # llama.cpp

    async def load(self, request: web.Request) -> web.Response:
        """Begin to load a model, as llama.cpp's router does."""
        name = await self._control.find(await self._model_of(request))
        if (status := self._control.status(name)) is not None and status.state is State.READY:
            raise ApiError(400, "model is already running", param="model")
        task = self._control.begin_load(name, request[EXCHANGE].client)
        await asyncio.wait([task], timeout=0.0)
        raise_failure(name, task)
        return json_answer(RouterDone())

    async def unload(self, request: web.Request) -> web.Response:
        """Begin to unload a model after its requests, as llama.cpp's router does."""
        status = await self._control.known(await self._model_of(request))
        if status.state in AT_REST:
            raise ApiError(400, "model is not running", param="model")
        self._control.begin_unload(status.name)
        return json_answer(RouterDone())

    async def _model_of(self, request: web.Request) -> str:
        model = parse_body(await request.app[BODIES].json(request, any_type=True), RouterRequest).model
        request[EXCHANGE].acts_on(model)
        return model


def _swap_model(model: ModelStatus) -> SwapModel:
    arguments = model.placement.arguments if model.placement is not None else []
    where = f"http://{model.endpoint.host}:{model.endpoint.port}" if model.endpoint is not None else ""
    keep = model.idle_timeout if model.keep_alive is None else model.keep_alive
    return SwapModel(
        model=model.name,
        state=SWAP_STATES[model.state],
        cmd=" ".join(["llama-server", *arguments]) if model.api == "llama.cpp" else "",
        proxy=where,
        ttl=int(keep) if 0 < keep < 1e9 else 0,
    )
