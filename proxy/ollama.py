"""Ollama's API around the answers: what there is, what runs, and the models' comings and goings.

What only makes sense for Ollama's own store goes to a daemon; of llama.cpp's models, those of a hub can be
pulled and deleted.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from actors.backends import StartError
from actors.hub.cache import ModelFiles
from actors.hub.download import HubError
from actors.hub.hub import Hub
from actors.hub.names import HubName, NoSuchVariantError, parse_name
from actors.hub.progress import Progress
from actors.lifecycle import State
from actors.ollama.client import Tag
from actors.ollama.daemon import Daemon
from actors.roster import ModelStatus
from actors.runtime import spawn
from actors.supervisor import Supervisor
from proxy.cards import Card, card_of, digest_of, rfc3339
from proxy.catalog import LATEST, Catalog
from proxy.errors import ApiError
from proxy.requests import read_body
from proxy.translate import wire

VERSION = "0.32.1"
"""The version of Ollama whose API this is; clients compare it."""
FOR_EVER = 292 * 365 * 86400.0
"""Seconds that Ollama says for a model that stays, more or less."""
STEP = 0.2
"""Seconds between two lines of a pull's progress."""
HUBS = ("hf.co/", "huggingface.co/")

Json = dict[str, Any]


class _Named(msgspec.Struct):
    """A request about a model; `name` is the older word."""

    model: str = ""
    name: str = ""
    source: str = ""
    stream: bool | None = None

    @property
    def wanted(self) -> str:
        return self.model or self.name


class OllamaApi:
    """The handlers. `session` is for what daemons are asked on behalf of a client."""

    def __init__(
        self,
        supervisor: Supervisor,
        catalog: Catalog,
        hub: Hub,
        session: aiohttp.ClientSession,
        *,
        body_limit: int,
        idle_timeout: float,
    ) -> None:
        self._supervisor = supervisor
        self._catalog = catalog
        self._hub = hub
        self._session = session
        self._body_limit = body_limit
        self._idle_timeout = idle_timeout

    def add_routes(self, router: web.UrlDispatcher, quiet: "Callable[[Handler], Handler]") -> None:
        """`quiet` is put around what is asked often and says little."""
        router.add_get("/", quiet(self.root))
        router.add_get("/api/version", quiet(self.version))
        router.add_get("/api/tags", quiet(self.tags))
        router.add_get("/api/ps", quiet(self.running))
        router.add_post("/api/show", quiet(self.show))
        router.add_post("/api/pull", self.pull)
        router.add_delete("/api/delete", self.delete)
        for name in ("copy", "create", "push"):
            router.add_post(f"/api/{name}", self.change)
        router.add_head("/api/blobs/{digest}", self.blob)
        router.add_post("/api/blobs/{digest}", self.blob)

    # What there is

    async def root(self, _request: web.Request) -> web.Response:
        """By this, clients know an Ollama."""
        return web.Response(text="Ollama is running")

    async def version(self, _request: web.Request) -> web.Response:
        """The first daemon's, else that of the API."""
        told = (state.version for state in self._catalog.daemons.states)
        return web.json_response({"version": next((version for version in told if version), VERSION)})

    async def tags(self, _request: web.Request) -> web.Response:
        """Every model that can be asked for."""
        listed = await self._catalog.listed()
        entries = [await self._entry(model) for model in listed.models]
        entries += [self._tag(name, await self._card(name)) for name in listed.cached]
        return web.json_response({"models": entries + [_own_tag(tag) for tag in listed.tags]})

    async def _entry(self, model: ModelStatus) -> Json:
        if model.api == "ollama":
            names = (model.name, *model.aliases)
            found = next((found for name in names if (found := self._catalog.daemons.find(name))), None)
            return {**_own_tag(found[1] if found else Tag(model.name)), **_names(model.name)}
        return self._tag(model.name, await self._card(model.name))

    def _tag(self, name: str, card: Card) -> Json:
        return {
            **_names(name),
            "modified_at": rfc3339(card.modified_at),
            "size": card.size,
            "digest": digest_of(name),
            "details": card.details,
            "capabilities": list(card.capabilities),
        }

    async def _card(self, name: str) -> Card:
        files = await self._files(name)
        if files is None:
            return Card()
        settings = self._catalog.settings_of(name)
        embeds = settings is not None and settings.embeddings
        return await asyncio.to_thread(card_of, files, embeds=embeds)

    async def _files(self, name: str) -> ModelFiles | None:
        if self._supervisor.resolve(name) is not None:
            try:
                return await self._supervisor.files(name)
            except StartError:
                return None  # its requests are told why
        hub_name = parse_name(name)
        if hub_name is None:
            return None
        return await asyncio.to_thread(self._hub.cache.find, hub_name, "main", None)

    async def running(self, _request: web.Request) -> web.Response:
        """The models that are loaded, longest-lived first."""
        loaded = [m for m in self._catalog.models if m.state in (State.READY, State.DRAINING)]
        left = {model.name: self._seconds_left(model) for model in loaded}
        loaded.sort(key=lambda model: -left[model.name])
        now = time.time()
        entries = []
        for model in loaded:
            entry = await self._entry(model)
            entry.pop("modified_at", None)
            entry.pop("capabilities", None)
            on_gpus = sum(model.memory.values())
            placement = model.placement
            entries.append(
                {
                    **entry,
                    "size": on_gpus + (placement.host if placement else 0),
                    "size_vram": on_gpus,
                    "expires_at": rfc3339(now + left[model.name]),
                    "context_length": placement.option.context if placement else 0,
                }
            )
        return web.json_response({"models": entries})

    def _seconds_left(self, model: ModelStatus) -> float:
        keep = self._idle_timeout or FOR_EVER if model.keep_alive is None else model.keep_alive
        return min(FOR_EVER, max(0.0, keep - (model.idle_seconds or 0.0)))

    async def show(self, request: web.Request) -> web.StreamResponse:
        """One model, by its header or by its daemon."""
        named, body = await self._named(request)
        if (found := await self._catalog.daemon_of(named.wanted)) is not None:
            daemon, own_name = found
            fields = wire.decode(body, dict[str, msgspec.Raw]) | {"model": msgspec.Raw(wire.encode(own_name))}
            return await self._to_daemon(request, daemon, wire.encode(fields))
        name = await self._llama_cpp_name(named.wanted)
        card = await self._card(name)
        return web.json_response(
            {
                "modelfile": f"# llama.cpp serves it; its settings are the gateway's\nFROM {name}\n",
                "parameters": "",
                "template": card.template,
                "details": card.details,
                "model_info": card.info,
                "capabilities": list(card.capabilities),
                "modified_at": rfc3339(card.modified_at),
            }
        )

    async def _llama_cpp_name(self, asked: str) -> str:
        """The canonical name of a model that is not Ollama's. Raises `ApiError`."""
        known = await self._catalog.find(asked)
        if (name := self._supervisor.resolve(known.name)) is not None:
            return name
        for name in (await self._catalog.listed()).cached:
            if name.casefold() == _without_hub(asked).casefold():
                return name
        raise _not_found(asked)

    # Comings and goings

    async def pull(self, request: web.Request) -> web.StreamResponse:
        """Download a model of the hub, or have a daemon download one of its own."""
        named, body = await self._named(request)
        asked = _without_hub(named.wanted)
        known = await self._catalog.find(asked)
        settings = self._catalog.settings_of(known.name)
        hub_name = settings.hub_name if settings is not None else parse_name(asked)
        if settings is not None and hub_name is None:
            return await self._progress(request, named, _nothing_to_do())
        if hub_name is not None and (settings is not None or self._hub.allows(hub_name)):
            revision, projector = (settings.revision, settings.mmproj) if settings else ("main", None)
            lines = self._pulled(hub_name, revision, projector)
            return await self._progress(request, named, lines)
        daemon = self._catalog.daemons.first
        if daemon is None:
            if hub_name is not None:
                message = f"hub.allow does not let requests name {hub_name.repo!r}"
                raise ApiError(403, message, code="model_forbidden")
            raise _no_daemon(f"to pull {named.wanted!r}")
        return await self._to_daemon(request, daemon, body)

    async def _pulled(self, name: HubName, revision: str, projector: str | None) -> AsyncIterator[Json]:
        """The lines of a download."""
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
        self, request: web.Request, named: _Named, lines: AsyncIterator[Json]
    ) -> web.StreamResponse:
        if named.stream is False:
            last = [line async for line in lines][-1]
            if "error" in last:
                raise ApiError(500, last["error"])
            return web.json_response(last)
        client = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await client.prepare(request)
        async for line in lines:
            await client.write(wire.encode(line) + b"\n")
        await client.write_eof()
        return client

    async def delete(self, request: web.Request) -> web.StreamResponse:
        """Delete a model from the hub's cache, or from a daemon."""
        named, _ = await self._named(request)
        if (found := await self._catalog.daemon_of(named.wanted)) is not None:
            return await self._to_daemon(request, found[0], wire.encode({"model": found[1]}))
        name = await self._llama_cpp_name(named.wanted)
        settings = self._catalog.settings_of(name)
        hub_name = settings.hub_name if settings is not None else parse_name(name)
        if hub_name is None:
            message = f"model {name!r} is a file that config.yaml names; it is not the gateway's to delete"
            raise ApiError(400, message)
        try:
            await asyncio.to_thread(self._hub.cache.remove, hub_name)
        except NoSuchVariantError:
            raise _not_found(named.wanted) from None
        return web.Response()

    async def change(self, request: web.Request) -> web.StreamResponse:
        """Copy, create or push: of Ollama's models only."""
        named, body = await self._named(request)
        verb = request.path.rpartition("/")[2]
        daemon = self._catalog.daemons.first
        if verb == "copy":
            if (found := await self._catalog.daemon_of(named.source)) is None:
                name = await self._llama_cpp_name(named.source)
                raise ApiError(
                    400, f"model {name!r} is served by llama.cpp; give it `aliases` in config.yaml"
                )
            daemon = found[0]
        if daemon is None:
            raise _no_daemon(f"to {verb} a model")
        return await self._to_daemon(request, daemon, body)

    async def blob(self, request: web.Request) -> web.StreamResponse:
        """A file on its way into a daemon's model, however large."""
        if (daemon := self._catalog.daemons.first) is None:
            raise _no_daemon("to take a file")
        return await self._to_daemon(request, daemon, request.content if request.can_read_body else None)

    async def _to_daemon(
        self, request: web.Request, daemon: Daemon, body: bytes | aiohttp.StreamReader | None
    ) -> web.StreamResponse:
        """Let a daemon answer, as it comes."""
        limit = aiohttp.ClientTimeout(total=None, sock_connect=self._catalog.daemons.settings.timeout)
        headers = {"Content-Type": request.headers.get("Content-Type", "application/json")}
        try:
            async with self._session.request(
                request.method, daemon.url + request.path, data=body, headers=headers, timeout=limit
            ) as answer:
                client = web.StreamResponse(status=answer.status)
                if "Content-Type" in answer.headers:
                    client.headers["Content-Type"] = answer.headers["Content-Type"]
                await client.prepare(request)
                async for piece in answer.content.iter_any():
                    await client.write(piece)
                await client.write_eof()
                return client
        except aiohttp.ClientError as error:
            daemon.look_soon()
            message = f"Ollama daemon {daemon.name!r} ({daemon.url}) does not answer: {error}"
            raise ApiError(502, message, code="upstream_error") from None
        finally:
            self._catalog.daemons.changed()

    async def _named(self, request: web.Request) -> tuple[_Named, bytes]:
        body = await read_body(request, self._body_limit, any_type=True)
        if not body:
            raise ApiError(400, "missing request body")
        try:
            named = wire.decode(body, _Named)
        except wire.FieldError as error:
            raise ApiError(400, str(error), param=error.field) from None
        if not named.wanted and not named.source:
            raise ApiError(400, "model is required", param="model")
        return named, body


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def _nothing_to_do() -> AsyncIterator[Json]:
    yield {"status": "success"}


def _names(name: str) -> Json:
    """Every name has a tag there."""
    tagged = name if ":" in name.rpartition("/")[2] else name + LATEST
    return {"name": tagged, "model": tagged}


def _own_tag(tag: Tag) -> Json:
    entry: Json = msgspec.to_builtins(tag)
    entry.pop("remote_host")
    return {**entry, "model": tag.name, "modified_at": tag.modified_at or rfc3339(0)}


def _without_hub(name: str) -> str:
    """Ollama's clients put the hub's host before the name of a repository."""
    for hub in HUBS:
        name = name.removeprefix(hub)
    return name


def _not_found(name: str) -> ApiError:
    return ApiError(404, f"model {name[:200]!r} not found", code="not_found", param="model")


def _no_daemon(why: str) -> ApiError:
    return ApiError(
        501, f"there is no Ollama daemon {why} (ollama.host in config.yaml)", code="not_supported"
    )
