"""`/admin/hub`: searches the hub, predicts what its models would take, and downloads them."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
import structlog
from aiohttp import web

from actors.hub.download import HubError, failed
from actors.hub.hub import Hub
from actors.hub.site import RepoListing
from actors.model_names import Choice, HubName, NoSuchVariantError, choices, choose, parse_name, without_hub
from actors.progress import Progress
from actors.runtime import spawn
from actors.servers import StartError, Trial
from actors.servers.llama.appraisal import Headers
from proxy.admin.live.models import Download
from proxy.admin.live.parts import LiveState
from proxy.admin.plan import PlanQuery
from proxy.admin.routes import Route, json_answer, read_query
from proxy.apis.requests import parse_body
from proxy.catalog import Catalog
from proxy.door.bodies import BODIES
from proxy.errors import ApiError
from proxy.exchange import EXCHANGE

log = structlog.get_logger("hub")

Json = dict[str, Any]
Consider = Callable[[HubName, Headers, Trial], Awaitable[Json]]
"""Returns where a model would go, by its headers (`ModelFactory.consider`). Raises `StartError`."""

MOST_PARTS = 12
"""Parts of a split model up to which its headers are read."""
MOST_HEADERS = 16
"""Models whose headers are remembered."""
SHOWN = 300.0
"""Seconds for which a download that has failed is shown."""

STATUSES = {"not_found": 404, "forbidden": 403, "too_large": 422}


class SearchQuery(msgspec.Struct):
    """The query of a search."""

    q: str = ""


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """A repository with GGUF files, which `hub.allow` permits. `updated` is an ISO time."""

    repo: str
    downloads: int | None
    likes: int | None
    updated: str | None


class Hits(msgspec.Struct, frozen=True):
    """What a search found, the most downloaded first."""

    results: Sequence[Hit]


class FilesQuery(PlanQuery):
    """The query for a repository's files. The settings are tried with the model of `variant`."""

    repo: str = ""
    variant: str | None = None


class HubFile(msgspec.Struct, frozen=True, kw_only=True):
    """A model of a repository. `size` are the bytes to download, `memory` what it would take in all.

    `memory` is predicted from the header for one model, and by size for the others (`certainty`: by size).
    """

    name: str
    variant: str
    size: int
    downloaded: bool
    memory: int | None
    certainty: str | None
    place: str | None


class HubFiles(msgspec.Struct, frozen=True, kw_only=True):
    """The models of a repository. `plan` is the answer of `/admin/plan` for one of them.

    `error`: why there is no prediction.
    """

    repo: str
    files: Sequence[HubFile]
    plan: Json | None
    error: str | None


class PullBody(msgspec.Struct, frozen=True):
    """The body of a request for a download: org/repo:variant, or a configured model."""

    name: str


class Pulled(msgspec.Struct, kw_only=True):
    """A download. `error` is set if it has failed; without it, it runs until `done`."""

    name: str
    download: Download | None = None
    error: str | None = None
    done: bool = False


class HubViews:
    """The handlers."""

    def __init__(self, hub: Hub, catalog: Catalog, live: LiveState, consider: Consider) -> None:
        self._hub = hub
        self._catalog = catalog
        self._live = live
        self._consider = consider
        self._headers: OrderedDict[tuple[str, str], Headers] = OrderedDict()
        self._pulls: dict[str, tuple[Pulled, float]] = {}
        live.feed.more_downloads = self._shown

    @property
    def routes(self) -> tuple[Route, ...]:
        """The routes."""
        base = "/admin/hub"
        return (
            Route(method="GET", path=f"{base}/search", handler=self.search, answer=Hits, query=SearchQuery),
            Route(method="GET", path=f"{base}/files", handler=self.files, answer=HubFiles, query=FilesQuery),
            Route(method="POST", path=f"{base}/pull", handler=self.pull, answer=Pulled, body=PullBody),
        )

    async def search(self, request: web.Request) -> web.Response:
        """Search the hub for repositories that `hub.allow` permits."""
        query = read_query(request, SearchQuery)
        try:
            found = await self._hub.search(query.q)
        except HubError as error:
            raise _of_hub(error) from None
        hits = [
            Hit(repo=repo.id, downloads=repo.downloads, likes=repo.likes, updated=repo.updated)
            for repo in sorted(found, key=lambda repo: -(repo.downloads or 0))
        ]
        return json_answer(Hits(hits))

    async def files(self, request: web.Request) -> web.Response:
        """List the models of a repository, with the memory that each would take."""
        query = read_query(request, FilesQuery)
        name = parse_name(without_hub(query.repo))
        if name is None:
            raise ApiError(400, "name a repository: /admin/hub/files?repo=ORG/NAME", param="repo")
        self._check_allowed(name)
        try:
            listing = await self._hub.look(name)
            chosen = choose(listing.files, query.variant or name.variant)
        except HubError as error:
            raise _of_hub(error) from None
        except NoSuchVariantError as error:
            raise ApiError(404, f"{name.repo}: {error}", code="model_not_found") from None
        plan, error_text = None, None
        try:
            trial = query.trial or Trial()
            headers = await self._read_headers(listing, chosen)
            plan = await self._consider(HubName(listing.repo, chosen.label), headers, trial)
        except (HubError, StartError) as error:
            error_text = error.failure.message
        cached = {str(model.name).casefold() for model in await asyncio.to_thread(self._hub.cache.models)}
        files = [_file(listing.repo, choice, chosen, plan, cached) for choice in choices(listing.files)]
        return json_answer(HubFiles(repo=listing.repo, files=files, plan=plan, error=error_text))

    async def pull(self, request: web.Request) -> web.Response:
        """Begin to download a model, or what is new of it."""
        asked = parse_body(await request.app[BODIES].json(request), PullBody).name
        request[EXCHANGE].acts_on(asked)
        settings = self._catalog.settings_of(asked)
        name = settings.hub_name if settings is not None else parse_name(without_hub(asked))
        if name is None:
            raise ApiError(400, f"{asked[:200]!r} is no model of a hub (org/repo:variant)", param="name")
        if settings is None:
            self._check_allowed(name)
        running, _ = self._pulls.get(str(name), (None, 0.0))
        if running is None or running.done:
            running = Pulled(name=str(name))
            self._pulls[running.name] = (running, time.monotonic())
            revision, projector = (settings.revision, settings.mmproj) if settings else ("main", None)
            _ = spawn(self._pull(running, name, revision, projector), name=f"pull of {name}")
        return json_answer(running, status=202)

    async def _pull(self, pulled: Pulled, name: HubName, revision: str, projector: str | None) -> None:
        def on_progress(progress: Progress) -> None:
            pulled.download = Download.of(progress)

        try:
            await self._hub.find(
                name, revision=revision, projector=projector, refresh=True, on_progress=on_progress
            )
        except HubError as error:
            pulled.error = str(error)
            log.warning("download failed", repo=name.repo, variant=name.variant, reason=str(error))
            self._pulls[pulled.name] = (pulled, time.monotonic())
        finally:
            pulled.done = True
        if pulled.error is None:
            del self._pulls[pulled.name]
            for model in await self._live.models.listed():
                named = parse_name(model.name)
                if named is not None and named.repo.casefold() == name.repo.casefold():
                    self._live.feed.publish("model", model)

    def _shown(self) -> list[Json]:
        """Describe downloads that run, and those that failed a while ago."""
        now = time.monotonic()
        for name, (pulled, since) in list(self._pulls.items()):
            if pulled.done and now - since > SHOWN:
                del self._pulls[name]
        return [
            {
                "name": pulled.name,
                **(msgspec.structs.asdict(pulled.download) if pulled.download else _UNKNOWN),
                "error": pulled.error,
            }
            for pulled, _ in self._pulls.values()
        ]

    async def _read_headers(self, listing: RepoListing, chosen: Choice) -> Headers:
        """Read the headers of a model and its projector. Raises `HubError`."""
        if len(chosen.parts) > MOST_PARTS:
            message = f"{listing.repo}: {chosen.label} has {len(chosen.parts)} parts, too many to look at"
            raise failed(message, retryable=False)
        key = (listing.commit, chosen.parts[0].path)
        headers = self._headers.get(key)
        if headers is None:
            projector = chosen.projector
            headers = (
                await self._hub.read_header(listing, chosen.parts),
                None if projector is None else await self._hub.read_header(listing, [projector]),
            )
            self._headers[key] = headers
            while len(self._headers) > MOST_HEADERS:
                self._headers.popitem(last=False)
        return headers

    def _check_allowed(self, name: HubName) -> None:
        if not self._hub.allows(name):
            message = f"hub.allow does not let requests name {name.repo!r}"
            raise ApiError(403, message, code="model_forbidden")


_UNKNOWN = {"bytes": 0, "total_bytes": None, "bytes_per_second": None, "seconds_left": None}


def _file(repo: str, choice: Choice, chosen: Choice, plan: Json | None, cached: set[str]) -> HubFile:
    """Describe a model. `plan` is that of the `chosen` one; what another takes differs by its size."""
    name = HubName(repo, choice.label)
    is_chosen = choice.parts == chosen.parts
    memory = None
    if plan is not None:
        memory = max(choice.size, plan["needs"] + choice.size - chosen.size)
    place = None
    if plan is not None and is_chosen:
        place = plan.get("placement") or plan["reason"]
    return HubFile(
        name=str(name),
        variant=choice.label,
        size=choice.size,
        downloaded=str(name).casefold() in cached,
        memory=memory,
        certainty=None if plan is None else plan.get("certainty") if is_chosen else "by size",
        place=place,
    )


def _of_hub(error: HubError) -> ApiError:
    status = STATUSES.get(error.failure.kind, 502)
    code = {404: "model_not_found", 403: "model_forbidden"}.get(status, "hub_error")
    return ApiError(status, error.failure.message, code=code)
