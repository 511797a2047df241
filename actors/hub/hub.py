"""`Hub.find`: returns the files of a model, from the cache or downloaded from the hub."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import aiohttp
import msgspec
import structlog

from actors.config.schema import HubSettings
from actors.hub.cache import CachedModel, ModelFiles, cache_of
from actors.hub.download import DownloadSource, HubError, download, failed
from actors.hub.site import FoundRepo, RepoListing, Site
from actors.memory.gguf import Header, HeaderError, join_parts
from actors.model_names import Choice, HubName, NoSuchVariantError, RepoFile, allowed, choose
from actors.progress import OnProgress, Reporter

log = structlog.get_logger("hub")

LIST_TRIES = 3
MOST_OWNERS = 8
"""Owners in `hub.allow` up to which each is searched by itself."""


class _Job(msgspec.Struct, frozen=True, kw_only=True):
    """One file to download."""

    file: RepoFile
    source: DownloadSource
    target: Path
    lock: Path


class Hub:
    """A hub, its cache, and the operator's policy.

    `memory` returns the bytes that models can have on this machine; larger models are not downloaded.
    """

    def __init__(
        self,
        settings: HubSettings,
        session: aiohttp.ClientSession,
        *,
        memory: Callable[[], int] | None = None,
        retry_delay: float = 1.0,
    ) -> None:
        self._settings = settings
        self._memory = memory
        self._session = session
        self._site = Site(settings, session)
        self._retry_delay = retry_delay
        self.cache = cache_of(settings)

    def reconfigure(self, settings: HubSettings) -> None:
        """Use these settings from now on, with the cache as it is."""
        self._settings = settings
        self._site = Site(settings, self._session)

    def allows(self, name: HubName) -> bool:
        """Whether a request may name this repository."""
        return allowed(name.repo, self._settings.allow)

    def listed(self) -> list[CachedModel]:
        """Return the models in the cache that a request may name. Blocking."""
        return [model for model in self.cache.models() if self.allows(model.name)]

    async def find(
        self,
        name: HubName,
        *,
        revision: str = "main",
        projector: str | None = None,
        refresh: bool = False,
        on_progress: OnProgress = lambda _: None,
    ) -> ModelFiles:
        """Return the model's files; download them if any is missing, or if `refresh` asks for changes.

        Raises `HubError`. Bytes that have arrived are kept in any case.
        """
        if not refresh and (found := await asyncio.to_thread(self.cache.find, name, revision, projector)):
            return found
        if self._settings.offline:
            message = f"{name} is not in {self.cache.folder}, and hub.offline is set"
            raise failed(message, retryable=False, kind="not_found")
        listing = await self._list(name, revision)
        try:
            choice = choose(listing.files, name.variant, projector=projector)
        except NoSuchVariantError as error:
            message = f"{listing.repo}: {error}"
            raise failed(message, retryable=False, kind="not_found") from None
        try:
            return await self._fetch(listing, choice, revision, on_progress)
        except OSError as error:
            reason = error.strerror or str(error)
            raise failed(f"{self.cache.folder} cannot be used as a cache: {reason}") from error

    async def search(self, words: str) -> list[FoundRepo]:
        """Search repositories that requests may name, the most downloaded first. Raises `HubError`."""
        self._check_online("the search")
        owners = {pattern.partition("/")[0] for pattern in self._settings.allow}
        any_owner = len(owners) > MOST_OWNERS or any(set(owner) & set("*?[") for owner in owners)
        of: list[str | None] = [None] if any_owner else [*sorted(owners)]
        found = [repo for owner in of for repo in await self._site.search(words, owner)]
        return [repo for repo in found if allowed(repo.id, self._settings.allow)]

    async def look(self, name: HubName, revision: str = "main") -> RepoListing:
        """List the files of a repository. Raises `HubError`."""
        self._check_online(name.repo)
        return await self._list(name, revision)

    async def read_header(self, listing: RepoListing, files: Sequence[RepoFile]) -> Header:
        """Read the header of a model's parts on the hub, without a download. Raises `HubError`."""
        sources = [await asyncio.to_thread(self._site.source, listing, file) for file in files]
        headers = [await self._site.read_header(source) for source in sources]
        try:
            return join_parts(headers)
        except HeaderError as error:
            raise failed(f"{listing.repo}: {files[0].path} {error}", retryable=False) from error

    def _check_online(self, what: str) -> None:
        if self._settings.offline:
            raise failed(f"{what}: hub.offline is set", retryable=False)

    # Listing

    async def _list(self, name: HubName, revision: str) -> RepoListing:
        for tries_left in reversed(range(LIST_TRIES)):
            try:
                return await self._site.list(name.repo, revision)
            except HubError as error:
                if not (error.failure.retryable and tries_left):
                    raise
                log.warning("hub does not answer", repo=name.repo, reason=str(error))
                await asyncio.sleep(self._retry_delay * (LIST_TRIES - tries_left))
        raise AssertionError("the last try returns or raises")

    # Fetching

    async def _fetch(
        self, listing: RepoListing, choice: Choice, revision: str, on_progress: OnProgress
    ) -> ModelFiles:
        jobs = await asyncio.to_thread(self._jobs, listing, choice)
        if jobs:
            self._check_memory(listing, choice)
            await self._check_disk(sum(job.file.size for job in jobs))
            if jobs[0].file == choice.parts[0]:
                header = await self._site.read_header(jobs[0].source)
                log.info(
                    "download starts",
                    repo=listing.repo,
                    variant=choice.label,
                    bytes=sum(job.file.size for job in jobs),
                    architecture=header.architecture,
                    context_length=header.context_length,
                )
            report = Reporter(
                on_progress,
                log=lambda progress: log.info(
                    "downloading",
                    repo=listing.repo,
                    variant=choice.label,
                    progress=str(progress),
                    bytes=progress.have,
                ),
                sizes={job.file.path: job.file.size for job in jobs},
            )
            for job in jobs:
                await download(
                    self._session,
                    job.source,
                    job.target,
                    lock=job.lock,
                    on_bytes=partial(report.at, job.file.path),
                    retry_delay=self._retry_delay,
                )
        return await asyncio.to_thread(self._finish, listing, choice, revision)

    def _jobs(self, listing: RepoListing, choice: Choice) -> list[_Job]:
        """Return the files that must be downloaded. Blocking."""
        jobs = []
        for file in choice.files:
            source = self._site.source(listing, file)
            assert file.etag is not None
            target = self.cache.blob(listing.repo, file.etag)
            pointer = self.cache.pointer(listing.repo, listing.commit, file.path)
            if target.is_file() or pointer.is_file():
                continue
            lock = self.cache.lock(listing.repo, file.etag)
            jobs.append(_Job(file=file, source=source, target=target, lock=lock))
        return jobs

    def _finish(self, listing: RepoListing, choice: Choice, revision: str) -> ModelFiles:
        paths = {file.path: self.cache.link(listing.repo, listing.commit, file) for file in choice.files}
        self.cache.set_revision(listing.repo, revision, listing.commit)
        return ModelFiles(
            path=paths[choice.parts[0].path],
            projector=paths[choice.projector.path] if choice.projector else None,
            label=choice.label,
        )

    def _check_memory(self, listing: RepoListing, choice: Choice) -> None:
        if self._memory is None or choice.size <= (memory := self._memory()):
            return
        message = (
            f"{listing.repo}:{choice.label} has {choice.size / 1e9:.1f} GB, and this machine has "
            f"{memory / 1e9:.1f} GB of memory, its GPUs included; it was not downloaded "
            "(`run.py pull` would do it all the same)"
        )
        raise failed(message, retryable=False, kind="too_large")

    async def _check_disk(self, needed: int) -> None:
        if self._settings.max_disk is None:
            return
        limit = int(self._settings.max_disk * 2**30)
        used = await asyncio.to_thread(self.cache.size)
        if used + needed > limit:
            message = (
                f"hub.max_disk allows {limit:,} bytes, {used:,} are used, and {needed:,} more are needed; "
                "`run.py models` lists what is there, and `run.py rm NAME` frees it"
            )
            raise failed(message, retryable=False)
