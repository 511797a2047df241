"""`/admin/models/{id}/...`: loads, unloads, pins, resets and deletes a model."""

import asyncio
import time
from collections.abc import Callable
from typing import Annotated

import msgspec
import structlog
from aiohttp import web

from actors.errors import RejectedError, Rejection
from actors.hub.hub import Hub
from actors.messages import Pin, Reset, Unload
from actors.model_names import HubName, NoSuchVariantError, parse_name
from actors.runtime import spawn
from actors.scheduler.lifecycle import State
from actors.scheduler.model_states import ModelStatus
from actors.supervisor import Supervisor
from proxy.admin.live.models import Model
from proxy.admin.live.parts import LiveState
from proxy.admin.live.requests import is_shown
from proxy.admin.routes import Route, json_answer, read_query
from proxy.catalog import Catalog, not_found
from proxy.errors import ApiError, from_rejection
from proxy.exchange import EXCHANGE

log = structlog.get_logger("admin")

POLL = 0.02
"""Seconds between two looks at a model that is waited for."""
AT_REST = (State.STOPPED, State.FAILED)


class LoadQuery(msgspec.Struct):
    """The query of a load. `wait`: seconds to wait for its end, instead of an answer at once."""

    wait: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 0.0


class UnloadQuery(LoadQuery):
    """The query of an unload. `force`: end the running requests instead of waiting for them."""

    force: bool = False


class Deleted(msgspec.Struct, frozen=True):
    """The bytes that are free on the disk now."""

    freed_bytes: int


class Control:
    """The handlers. A load may wait for its turn as long as a request may."""

    def __init__(self, supervisor: Supervisor, catalog: Catalog, hub: Hub, live: LiveState) -> None:
        self._supervisor = supervisor
        self._catalog = catalog
        self._hub = hub
        self._live = live
        self._loads: dict[str, asyncio.Task[Rejection | None]] = {}

    @property
    def routes(self) -> tuple[Route, ...]:
        """The routes."""
        one = "/admin/models/{id:.+}"
        return (
            Route(method="POST", path=f"{one}/load", handler=self.load, answer=Model, query=LoadQuery),
            Route(method="POST", path=f"{one}/unload", handler=self.unload, answer=Model, query=UnloadQuery),
            Route(method="POST", path=f"{one}/pin", handler=self.pin, answer=Model),
            Route(method="POST", path=f"{one}/unpin", handler=self.unpin, answer=Model),
            Route(method="POST", path=f"{one}/reset", handler=self.reset, answer=Model),
            Route(method="DELETE", path=one, handler=self.delete, answer=Deleted),
        )

    async def load(self, request: web.Request) -> web.Response:
        """Load a model, as a request to it would: it waits for its turn and for memory."""
        query = read_query(request, LoadQuery)
        name = await self.find(request.match_info["id"])
        task = self.begin_load(name, request[EXCHANGE].client)
        await _handled()
        if not task.done():
            await asyncio.wait([task], timeout=query.wait)
        raise_failure(name, task)
        return await self._answer(name, is_done=task.done())

    async def unload(self, request: web.Request) -> web.Response:
        """Unload a model after the requests that are there now, or `?force=1` at once."""
        query = read_query(request, UnloadQuery)
        status = await self.known(request.match_info["id"])
        self.begin_unload(status.name, force=query.force)
        is_done = await self.wait_unloaded(status, query.wait)
        return await self._answer(status.name, is_done=is_done)

    async def pin(self, request: web.Request) -> web.Response:
        """Keep a model loaded once it is, until it is unpinned or the gateway ends."""
        return await self._tell(request, lambda name: Pin(model=name, pinned=True))

    async def unpin(self, request: web.Request) -> web.Response:
        """Let a model be evicted and unloaded again."""
        return await self._tell(request, lambda name: Pin(model=name, pinned=False))

    async def reset(self, request: web.Request) -> web.Response:
        """Forget a model's failures, so that the next request tries to load it."""
        return await self._tell(request, lambda name: Reset(model=name))

    async def delete(self, request: web.Request) -> web.Response:
        """Delete the downloaded files of a model that does not run."""
        name = await self.find(request.match_info["id"])
        hub_name = self._on_hub(name)
        if hub_name is None:
            message = (
                f"model {name!r} was not downloaded from a hub; its files are not the gateway's to delete"
            )
            raise ApiError(400, message, code="not_deletable")
        for status in self._supervisor.describe():
            if status.state not in AT_REST and shares_files(hub_name, self._on_hub(status.name)):
                message = f"model {status.name!r} is {status.state}; unload it first"
                raise ApiError(409, message, code="model_running")
        try:
            freed = await asyncio.to_thread(self._hub.cache.remove, hub_name)
        except NoSuchVariantError as error:
            raise ApiError(404, str(error), code="model_not_found") from None
        except OSError as error:
            reason = error.strerror or str(error)
            raise ApiError(500, f"the files of {hub_name} cannot be deleted: {reason}") from None
        for gone in await self._catalog.without_files(hub_name):
            self._catalog.forget(gone)
        log.info("model deleted", model=name, freed=freed)
        left = {model.name: model for model in await self._live.models.listed()}
        if (model := left.get(name)) is not None:
            self._live.feed.publish("model", model)
        else:
            self._live.feed.publish("model_removed", {"name": name})
        return json_answer(Deleted(freed))

    # For other APIs

    async def find(self, asked: str) -> str:
        """Return the canonical name of a model that can be loaded. Raises `ApiError`."""
        name = (await self._catalog.find(asked)).name
        if self._supervisor.resolve(name) is None and not self._supervisor.would_adopt(name):
            raise not_found(asked)
        return name

    def begin_load(self, name: str, client: str) -> "asyncio.Task[Rejection | None]":
        """Load a model in a task, which returns what prevents it. The task goes on when nobody waits."""
        task = self._loads.get(name)
        if task is None:
            task = self._loads[name] = spawn(self._load(name, client), name=f"load of {name}")
            task.add_done_callback(lambda ended: self._forget(name, ended))
        return task

    def _forget(self, name: str, load: "asyncio.Task[Rejection | None]") -> None:
        if self._loads.get(name) is load:
            del self._loads[name]

    async def _load(self, name: str, client: str) -> Rejection | None:
        timeout = self._catalog.config.server_pool.queue_timeout
        try:
            async with self._supervisor.lease(name, timeout=timeout, client=client, slot=False) as lease:
                lease.served = True
        except RejectedError as rejected:
            log.info("model was not loaded", model=name, reason=str(rejected))
            return rejected.reason
        return None

    def begin_unload(self, name: str, *, force: bool = False) -> None:
        """Unload a model; `force` ends its requests with an error."""
        if (task := self._loads.pop(name, None)) is not None:
            task.cancel()  # a load that is asked for from now on is another one
        if force:
            message = f"the operator has unloaded model {name!r}"
            for exchange in list(self._live.running):
                if is_shown(exchange) and self._supervisor.resolve(exchange.model or "") == name:
                    exchange.cancel(ApiError(403, message, code="request_cancelled"))
        self._supervisor.tell(Unload(model=name, at_once=force))

    async def wait_unloaded(self, before: ModelStatus, seconds: float) -> bool:
        """Wait until a model has stopped, and perhaps has been loaded again; false after so many seconds."""
        await _handled()
        deadline = time.monotonic() + seconds
        while True:
            now = self.status(before.name)
            if now is None or now.state in AT_REST or now.epoch != before.epoch:
                return True
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(POLL)

    def status(self, name: str) -> ModelStatus | None:
        """Return the status of a model that the supervisor knows by this name."""
        return next((status for status in self._supervisor.describe() if status.name == name), None)

    async def known(self, asked: str) -> ModelStatus:
        """Return the status of a model that is configured, or has been asked for. Raises `ApiError`."""
        status = self.status((await self._catalog.find(asked)).name)
        if status is None:
            raise not_found(asked)
        return status

    async def _tell(self, request: web.Request, make: Callable[[str], Pin | Reset]) -> web.Response:
        name = (await self.known(request.match_info["id"])).name
        self._supervisor.tell(make(name))
        await _handled()
        return await self._answer(name, is_done=True)

    async def _answer(self, name: str, *, is_done: bool) -> web.Response:
        status = await self.known(name)
        models = self._live.models
        if not models.has_facts(name):
            await models.read_facts(status)
        return json_answer(models.describe(status), status=200 if is_done else 202)

    def _on_hub(self, name: str) -> HubName | None:
        settings = self._catalog.settings_of(name)
        return parse_name(name) if settings is None else settings.hub_name


def raise_failure(name: str, load: "asyncio.Task[Rejection | None]") -> None:
    """Raise `ApiError` if a load has ended without the model being loaded."""
    if load.cancelled():
        raise ApiError(409, f"model {name!r} was unloaded before it was loaded", code="load_cancelled")
    if load.done() and (reason := load.result()) is not None:
        raise from_rejection(reason)


def shares_files(deleted: HubName, other: HubName | None) -> bool:
    """Whether files of the other model might be deleted too."""
    if other is None or other.repo.casefold() != deleted.repo.casefold():
        return False
    return deleted.variant is None or other.variant is None or deleted.variant == other.variant


async def _handled() -> None:
    """Let the supervisor handle the messages in its mailbox."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)
