"""`/admin/config`, `/admin/reload`, `/admin/drain`: the configuration in effect, another one, and the end."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from aiohttp import web

from actors.config.changes import Change
from actors.config.schema import Seconds
from proxy.admin.routes import Route, json_answer, read_query
from proxy.errors import ApiError
from proxy.reload import Reload, Reloader


class ConfigShown(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration in effect, without secrets; `pending` are the changes that wait for a restart."""

    config: dict[str, Any]
    files: Sequence[str]
    pending: Sequence[Change]


class ReloadQuery(msgspec.Struct):
    """The query of `/admin/reload`. `plan`: only say what a reload would change."""

    plan: bool = False


class DrainQuery(msgspec.Struct):
    """The query of `/admin/drain`. `timeout`: seconds for running requests, instead of the settings'."""

    timeout: Seconds | None = None


class Draining(msgspec.Struct, frozen=True):
    """The gateway stops; running requests have `timeout` seconds to finish."""

    timeout: float


class ConfigViews:
    """The handlers. `drain` begins the end of the gateway, with the given seconds for running requests."""

    def __init__(self, reloader: Reloader, drain: Callable[[float], None]) -> None:
        self._reloader = reloader
        self._drain = drain

    @property
    def routes(self) -> tuple[Route, ...]:
        """The routes."""
        return (
            Route(method="GET", path="/admin/config", handler=self.show, answer=ConfigShown),
            Route(method="POST", path="/admin/reload", handler=self.reload, answer=Reload, query=ReloadQuery),
            Route(method="POST", path="/admin/drain", handler=self.drain, answer=Draining, query=DrainQuery),
        )

    async def show(self, _request: web.Request) -> web.Response:
        """Show the configuration in effect, without secrets, and what waits for a restart."""
        config, pending = await asyncio.to_thread(self._reloader.describe)
        files = [str(file) for file in self._reloader.files]
        return json_answer(ConfigShown(config=config, files=files, pending=pending))

    async def reload(self, request: web.Request) -> web.Response:
        """Read the configuration again, and apply what has changed; with `plan=1` only say what that is."""
        asked = read_query(request, ReloadQuery)
        if self._reloader.parts.factory.supervisor.closing:
            raise ApiError(503, "the gateway is shutting down", code="shutting_down", retry_after=5)
        done = await (self._reloader.plan() if asked.plan else self._reloader.reload())
        if not done.faults:
            return json_answer(done)
        error = {"message": "\n".join(done.faults), "type": "invalid_request_error", "param": None}
        body = {**msgspec.to_builtins(done), "error": {**error, "code": "invalid_config"}}
        return json_answer(body, status=422)

    async def drain(self, request: web.Request) -> web.Response:
        """Stop the gateway as TERM does: no new requests, and models stop when theirs have ended."""
        asked = read_query(request, DrainQuery).timeout
        timeout = self._reloader.config.server.drain_timeout if asked is None else asked
        self._drain(timeout)
        return json_answer(Draining(timeout), status=202)
