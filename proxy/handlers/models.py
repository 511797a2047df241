"""`/v1/models`, for clients of OpenAI's and Anthropic's APIs. It loads no model and keeps none loaded."""

import time
from typing import Literal

import msgspec
from aiohttp import web

from actors.scheduler.lifecycle import State
from actors.scheduler.model_states import ModelStatus
from proxy.apis.anthropic import models as anthropic
from proxy.apis.fields import FieldError
from proxy.apis.openai.models import Entry, encode_model
from proxy.apis.requests import invalid_field
from proxy.apis.table import is_for_anthropic
from proxy.catalog import Catalog
from proxy.errors import ApiError
from proxy.exchange import EXCHANGE
from proxy.model_cards import ModelFacts, facts_of_card, facts_of_tag

OWNER = "llama-smart-proxy"

STATUS_VALUES: dict[State, Literal["loaded", "loading", "unloaded"]] = {
    State.STOPPED: "unloaded",
    State.FETCHING: "loading",
    State.FETCHED: "loading",
    State.STARTING: "loading",
    State.READY: "loaded",
    State.DRAINING: "loaded",
    State.STOPPING: "unloaded",
    State.FAILED: "unloaded",
}
"""llama.cpp's names for a model's state, which its clients read in `/v1/models`."""


class ModelViews:
    """The handlers."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._created = int(time.time())

    async def listed(self, request: web.Request) -> web.Response:
        """List the models as OpenAI does, and with more fields, or for Anthropic's clients."""
        entries = await self._entries(request)
        if is_for_anthropic(request.path, request.headers):
            try:
                page = anthropic.encode_page([_for_anthropic(entry) for entry in entries], request.query)
            except FieldError as error:
                raise invalid_field(error) from None
            return web.json_response(page)
        asked = request.query.get("aliases", "").lower() not in ("", "0", "false")
        if asked or self._catalog.config.server.list_aliases:
            entries += [
                msgspec.structs.replace(entry, name=alias, aliases=(), parent=entry.name)
                for entry in entries
                for alias in entry.aliases
            ]
        return web.json_response({"object": "list", "data": [encode_model(entry) for entry in entries]})

    async def described(self, request: web.Request) -> web.Response:
        """Describe one model, by name or alias; both may contain slashes and colons."""
        asked = request.match_info["name"]
        known = await self._catalog.find(asked)
        for entry in await self._entries(request, (known.preset or known.name).casefold()):
            if is_for_anthropic(request.path, request.headers):
                return web.json_response(anthropic.encode_model(_for_anthropic(entry)))
            return web.json_response(encode_model(entry))
        raise ApiError(404, f"model {asked[:200]!r} not found", code="model_not_found", param="model")

    async def _entries(self, request: web.Request, wanted: str | None = None) -> list[Entry]:
        """Describe the known models, and those that a name would find in the hub's cache or in a daemon.

        `wanted`: only that one, which may be hidden; its name in lower case.
        """
        listed = await self._catalog.listed(request[EXCHANGE].may_use, hidden=wanted is not None)

        def is_wanted(name: str) -> bool:
            return wanted is None or name.casefold() == wanted

        models = [model for model in listed.models if is_wanted(model.name)]
        presets = [each for each in listed.presets if is_wanted(each[0])]
        described = {
            model.name: await self._entry(model) for model in (*models, *(model for _, _, model in presets))
        }
        entries = [described[model.name] for model in models]
        for name, preset, model in presets:
            changed = {"name": name, "aliases": (), "parent": model.name, "description": preset.description}
            entries.append(msgspec.structs.replace(described[model.name], **changed))
        for name in filter(is_wanted, listed.cached):
            facts = facts_of_card(await self._catalog.card_of(name))
            entries.append(self._unused(name, facts))
        entries += [
            self._unused(tag.name, facts_of_tag(tag), owner="ollama")
            for tag in listed.tags
            if is_wanted(tag.name)
        ]
        return entries

    async def _entry(self, model: ModelStatus) -> Entry:
        settings = self._catalog.common_settings_of(model.name)
        owner = "ollama" if model.api == "ollama" else OWNER
        return msgspec.structs.replace(
            self._unused(model.name, await self._catalog.facts_of(model), owner=owner),
            aliases=model.aliases,
            status=STATUS_VALUES[model.state],
            failed=model.state is State.FAILED,
            description=settings.description if settings is not None else "",
        )

    def _unused(self, name: str, facts: ModelFacts, owner: str = OWNER) -> Entry:
        return Entry(name=name, created=self._created, owner=owner, **msgspec.structs.asdict(facts))


def _for_anthropic(entry: Entry) -> anthropic.Entry:
    return anthropic.Entry(entry.name, entry.created, entry.context)
