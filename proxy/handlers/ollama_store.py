"""Ollama's API to pull, create, copy, push and delete models.

Requests about Ollama's own store are passed to a daemon. Of llama.cpp's models, those of a hub can be pulled
and deleted.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from actors.hub.download import HubError
from actors.hub.hub import Hub
from actors.model_names import HubName, NoSuchVariantError, parse_name, without_hub
from actors.progress import Progress
from actors.runtime import spawn
from actors.servers.ollama.daemon import Daemon
from proxy.answers.call import ModelCaller
from proxy.apis import fields as wire
from proxy.apis.requests import fields_of, parse_body, with_fields
from proxy.catalog import Catalog, not_found
from proxy.door.bodies import BODIES
from proxy.errors import ApiError
from proxy.exchange import EXCHANGE
from proxy.model_cards import digest_of

STEP = 0.2
"""Seconds between two lines of progress of a pull."""

Json = dict[str, Any]


class Named(msgspec.Struct):
    """A request about a model; `name` is the older word."""

    model: str | None = None
    name: str | None = None
    source: str | None = None
    stream: bool | None = None
    verbose: bool | None = None
    parent: str | None = msgspec.field(name="from", default=None)

    @property
    def wanted(self) -> str:
        return self.model or self.name or ""


class OllamaStore:
    """The handlers. `session` is for requests to daemons on behalf of a client."""

    def __init__(
        self,
        caller: ModelCaller,
        catalog: Catalog,
        hub: Hub,
        session: aiohttp.ClientSession,
    ) -> None:
        self._caller = caller
        self._catalog = catalog
        self._hub = hub
        self._session = session

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Add all routes."""
        router.add_post("/api/pull", self.pull)
        router.add_delete("/api/delete", self.delete)
        router.add_post("/api/me", self.account)
        for name in ("copy", "create", "push"):
            router.add_post(f"/api/{name}", self.change)
        router.add_head("/api/blobs/{digest}", self.blob)
        router.add_post("/api/blobs/{digest}", self.blob)

    async def pull(self, request: web.Request) -> web.StreamResponse:
        """Download a model from the hub, or let a daemon download one."""
        named, body = await self.named(request)
        asked = without_hub(named.wanted)
        settings = self._catalog.settings_of(asked) or self._catalog.settings_of(named.wanted)
        hub_name = settings.hub_name if settings is not None else parse_name(asked)
        if settings is not None and hub_name is None:
            return await self._progress(request, named, _nothing_to_do())
        if hub_name is not None and (settings is not None or self._hub.allows(hub_name)):
            revision, projector = (settings.revision, settings.mmproj) if settings else ("main", None)
            lines = self._pulled(hub_name, revision, projector)
            return await self._progress(request, named, lines)
        daemon, body = await self._daemon_for("model", named.wanted, body)
        if daemon is None:
            if hub_name is not None:
                message = f"hub.allow does not let requests name {hub_name.repo!r}"
                raise ApiError(403, message, code="model_forbidden")
            raise _no_daemon(f"to pull {named.wanted!r}")
        return await self.to_daemon(request, daemon, body)

    async def _pulled(self, name: HubName, revision: str, projector: str | None) -> AsyncIterator[Json]:
        """Yield the lines of a download's progress."""
        yield {"status": "pulling manifest"}
        latest: list[Progress] = []

        def on_progress(progress: Progress) -> None:
            latest[:] = [progress]

        find = self._hub.find(
            name, revision=revision, projector=projector, refresh=True, on_progress=on_progress
        )
        task = spawn(find, name=f"pull of {name}")
        try:
            while not task.done():
                await asyncio.wait([task], timeout=STEP)
                if latest:
                    progress = latest.pop()
                    digest = f"sha256:{digest_of(str(name))}"
                    counts = {"total": progress.total, "completed": progress.have}
                    yield {"status": f"pulling {name}", "digest": digest, **counts}
            task.result()
        except HubError as error:
            yield {"error": str(error)}
            return
        finally:
            task.cancel()
            await asyncio.wait([task])
        yield {"status": "verifying sha256 digest"}
        yield {"status": "success"}

    async def _progress(
        self, request: web.Request, named: Named, lines: AsyncIterator[Json]
    ) -> web.StreamResponse:
        if named.stream is False:
            last = [line async for line in lines][-1]
            if "error" in last:
                raise ApiError(500, last["error"])
            return web.json_response(last)
        headers = {"Content-Type": "application/x-ndjson", **request[EXCHANGE].headers}
        client = web.StreamResponse(headers=headers)
        await client.prepare(request)
        async for line in lines:
            await client.write(wire.encode(line) + b"\n")
        await client.write_eof()
        return client

    async def delete(self, request: web.Request) -> web.StreamResponse:
        """Delete a model from the hub's cache, or from a daemon."""
        named, _ = await self.named(request)
        known = await self._catalog.find(named.wanted)
        if known.preset is not None:
            raise ApiError(
                400, f"{known.preset!r} is a preset of {known.name!r}, and has no files of its own"
            )
        if (found := await self._catalog.daemon_of(named.wanted)) is not None:
            # A model that is deleted while it is loaded could not be unloaded any more.
            await self._caller.keep(request[EXCHANGE], known.name, 0)
            answer = await self.to_daemon(request, found[0], wire.encode({"model": found[1]}))
            if answer.status == 200:
                self._catalog.forget(known.name)
            return answer
        name = await self._catalog.of_llama_cpp(named.wanted)
        settings = self._catalog.settings_of(name)
        hub_name = settings.hub_name if settings is not None else parse_name(name)
        if settings is None and hub_name is not None and not self._hub.allows(hub_name):
            raise not_found(named.wanted)
        if hub_name is None:
            message = f"model {name!r} is a file that config.yaml names; it is not the gateway's to delete"
            raise ApiError(400, message)
        try:
            await asyncio.to_thread(self._hub.cache.remove, hub_name)
        except NoSuchVariantError:
            raise not_found(named.wanted) from None
        for gone in await self._catalog.without_files(hub_name):
            await self._caller.keep(request[EXCHANGE], gone, 0)
            self._catalog.forget(gone)
        return web.Response()

    async def change(self, request: web.Request) -> web.StreamResponse:
        """Copy, create or push one of Ollama's models."""
        named, body = await self.named(request)
        verb = request.path.rpartition("/")[2]
        field, name = {
            "copy": ("source", named.source or ""),
            "create": ("from", named.parent or ""),
            "push": ("model", named.wanted),
        }[verb]
        if name and verb != "create" and await self._catalog.daemon_of(name) is None:
            of_llama_cpp = await self._catalog.of_llama_cpp(name)
            message = f"model {of_llama_cpp!r} is served by llama.cpp; give it `aliases` in config.yaml"
            raise ApiError(400, message)
        daemon, body = await self._daemon_for(field, name, body)
        if daemon is None:
            raise _no_daemon(f"to {verb} a model")
        return await self.to_daemon(request, daemon, body)

    async def _daemon_for(self, field: str, name: str, body: bytes) -> tuple[Daemon | None, bytes]:
        """Return the daemon that has the model, or the first one, and a body with its name of the model."""
        try:
            found = await self._catalog.daemon_of(name) if name else None
        except ApiError:
            found = None
        if found is None:
            return self._catalog.daemons.first, body
        return found[0], with_fields(fields_of(body), {field: wire.encode(found[1])})

    async def account(self, request: web.Request) -> web.StreamResponse:
        """Answer who is signed in at ollama.com: a daemon may be, the gateway never is."""
        if (daemon := self._catalog.daemons.first) is not None:
            return await self.to_daemon(request, daemon, None)
        raise ApiError(401, "unauthorized")

    async def blob(self, request: web.Request) -> web.StreamResponse:
        """Pass a file of any size to a daemon, for a model to be created."""
        if not re.fullmatch("sha256[:-][0-9a-fA-F]{64}", request.match_info["digest"]):
            raise ApiError(400, "invalid digest format")
        if (daemon := self._catalog.daemons.first) is None:
            raise _no_daemon("to take a file")
        body = request.app[BODIES].stream(request) if request.can_read_body else None
        return await self.to_daemon(request, daemon, body)

    async def to_daemon(
        self, request: web.Request, daemon: Daemon, body: bytes | AsyncGenerator[bytes, None] | None
    ) -> web.StreamResponse:
        """Pass a request to a daemon, and its answer to the client as it arrives."""
        limit = aiohttp.ClientTimeout(total=None, sock_connect=self._catalog.daemons.settings.timeout)
        exchange = request[EXCHANGE]
        try:
            async with self._session.request(
                request.method,
                daemon.url + request.path,
                data=body,
                headers={"Content-Type": "application/json"},
                timeout=limit,
                allow_redirects=False,
            ) as answer:
                client = web.StreamResponse(status=answer.status, headers=exchange.headers)
                exchange.status = answer.status
                if answer.status >= 400:
                    exchange.error = f"Ollama daemon {daemon.name!r} refuses"
                if "Content-Type" in answer.headers:
                    client.headers["Content-Type"] = answer.headers["Content-Type"]
                await client.prepare(request)
                async for piece in answer.content.iter_any():
                    await client.write(piece)
                await client.write_eof()
                return client
        except (aiohttp.ClientError, ConnectionResetError) as error:
            if request.transport is None or request.transport.is_closing():
                raise ConnectionResetError("the client has left") from None
            if isinstance(
                error.__cause__, ApiError
            ):  # an error of the client's body, which is streamed to the daemon
                raise error.__cause__ from None
            daemon.look_soon()
            message = f"Ollama daemon {daemon.name!r} ({daemon.url}) does not answer: {error}"
            raise ApiError(502, message, code="upstream_error") from None
        finally:
            self._catalog.daemons.changed()

    async def named(self, request: web.Request) -> tuple[Named, bytes]:
        body = await request.app[BODIES].json(request, any_type=True)
        named = parse_body(body, Named)
        if not named.wanted and not named.source:
            raise ApiError(400, "model is required", param="model")
        request[EXCHANGE].acts_on(named.wanted or named.source or "")
        return named, body


async def _nothing_to_do() -> AsyncIterator[Json]:
    yield {"status": "success"}


def _no_daemon(why: str) -> ApiError:
    return ApiError(
        501, f"there is no Ollama daemon {why} (ollama.host in config.yaml)", code="not_supported"
    )
