"""Ollama's API: lists of models, of loaded models, and descriptions."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from actors.model_names import with_tag
from actors.scheduler.lifecycle import State
from actors.scheduler.model_states import ModelStatus
from actors.servers.ollama.client import Tag
from proxy.answers.call import check_may_use
from proxy.answers.whole import json_response
from proxy.apis.fields import encode
from proxy.apis.ollama.answer import rfc3339
from proxy.apis.requests import fields_of, with_fields
from proxy.catalog import Catalog
from proxy.exchange import EXCHANGE
from proxy.handlers.ollama_store import OllamaStore
from proxy.model_cards import ModelCard, digest_of, read_verbose

VERSION = "0.32.1"
"""The version of Ollama whose API is implemented; clients compare it."""
FOR_EVER = 292 * 365 * 86400.0
"""Seconds that Ollama roughly reports for a model that stays loaded."""

Json = dict[str, Any]


class OllamaApi:
    """The handlers."""

    def __init__(self, catalog: Catalog, store: OllamaStore) -> None:
        self._catalog = catalog
        self._store = store

    def add_routes(self, router: web.UrlDispatcher, quiet: "Callable[[Handler], Handler]") -> None:
        """`quiet` is put around what is asked often and says little."""
        router.add_get("/api/version", quiet(self.version))
        router.add_get("/api/tags", quiet(self.tags))
        router.add_get("/api/ps", quiet(self.running))
        router.add_post("/api/show", quiet(self.show))
        self._store.add_routes(router)

    # The models

    async def root(self, _request: web.Request) -> web.Response:
        """Answer as Ollama does; clients recognize a server by this text."""
        return web.Response(text="Ollama is running")

    async def version(self, _request: web.Request) -> web.Response:
        """Report the first daemon's version, or that of the API."""
        versions = (state.version for state in self._catalog.daemons.states)
        return web.json_response({"version": next((version for version in versions if version), VERSION)})

    async def tags(self, request: web.Request) -> web.Response:
        """List every model that a request can name."""
        listed = await self._catalog.listed(request[EXCHANGE].may_use)
        entries = [await self._entry(model) for model in listed.models]
        entries += [{**await self._entry(model), **_names(name)} for name, _, model in listed.presets]
        entries += [self._tag(name, await self._catalog.card_of(name)) for name in listed.cached]
        return web.json_response({"models": entries + [_own_tag(tag) for tag in listed.tags]})

    async def _entry(self, model: ModelStatus) -> Json:
        if model.api == "ollama":
            tag = self._catalog.tag_of(model) or Tag(model.name, digest=digest_of(model.name))
            return {**_own_tag(tag), **_names(model.name)}
        return self._tag(model.name, await self._catalog.card_of(model.name))

    def _tag(self, name: str, card: ModelCard) -> Json:
        return {
            **_names(name),
            "modified_at": rfc3339(card.modified_at),
            "size": card.size,
            "digest": digest_of(name),
            "details": card.details,
            "capabilities": list(card.capabilities),
        }

    async def running(self, request: web.Request) -> web.Response:
        """List the loaded models, the one that stays longest first."""
        may_use = request[EXCHANGE].may_use
        loaded = [
            model
            for model in self._catalog.models
            if model.state in (State.READY, State.DRAINING)
            and not model.hidden
            and may_use(model.name, *model.aliases)
        ]
        left = {model.name: _seconds_left(model) for model in loaded}
        loaded.sort(key=lambda model: -left[model.name])
        now = time.time()
        entries = []
        for model in loaded:
            entry = await self._entry(model)
            entry.pop("modified_at", None)
            entry.pop("capabilities", None)
            on_gpus = sum(model.memory.values())
            placement = model.placement
            option = placement.option if placement else None
            entries.append(
                {
                    **entry,
                    "size": on_gpus + (placement.host if placement else 0),
                    "size_vram": on_gpus,
                    "expires_at": rfc3339(now + left[model.name]),
                    "context_length": (option.slot or option.context) if option else 0,
                }
            )
        return web.json_response({"models": entries})

    async def show(self, request: web.Request) -> web.StreamResponse:
        """Describe one model, from its file's header or from its daemon."""
        named, body = await self._store.named(request)
        known = await self._catalog.find(named.wanted)
        check_may_use(request[EXCHANGE], named.wanted, self._catalog.names_of(known))
        if (found := await self._catalog.daemon_of(named.wanted)) is not None:
            return await self._store.to_daemon(
                request, found[0], with_fields(fields_of(body), {"model": encode(found[1])})
            )
        name = await self._catalog.of_llama_cpp(named.wanted)
        card = await self._catalog.card_of(name)
        shown = {
            "modelfile": f"# llama.cpp serves it; its settings are the gateway's\nFROM {name}\n",
            "parameters": "",
            "template": card.template,
            "details": card.details,
            "model_info": card.info,
            **({"projector_info": card.projector} if card.projector else {}),
            "capabilities": list(card.capabilities),
            "modified_at": rfc3339(card.modified_at),
        }
        if not named.verbose or (files := await self._catalog.files_of(name)) is None:
            return json_response(encode(shown))
        # A large vocabulary takes a while to read and to write down.
        return json_response(await asyncio.to_thread(lambda: encode({**shown, **read_verbose(files)})))


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _seconds_left(model: ModelStatus) -> float:
    keep = model.idle_timeout or FOR_EVER if model.keep_alive is None else model.keep_alive
    return min(FOR_EVER, max(0.0, keep - (model.idle_seconds or 0.0)))


def _names(name: str) -> Json:
    """Return name and model in Ollama's form, always with a tag."""
    tagged = with_tag(name)
    return {"name": tagged, "model": tagged}


def _own_tag(tag: Tag) -> Json:
    entry: Json = msgspec.to_builtins(tag)
    entry.pop("remote_host")
    return {**entry, "model": tag.name, "modified_at": tag.modified_at or rfc3339(0)}
