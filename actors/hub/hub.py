"""`Hub.find`: the files of a model, from the cache, or fetched from the hub."""

import asyncio
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import aiohttp
import msgspec
import structlog

from actors.config import HubSettings
from actors.gguf import Header, HeaderError, read_header
from actors.hub.cache import Cache, CachedModel, ModelFiles, default_folder
from actors.hub.download import HubError, Source, download, failed
from actors.hub.names import Choice, HubName, NoSuchVariantError, RepoFile, allowed, choose
from actors.hub.progress import OnProgress, Reporter

log = structlog.get_logger("hub")

LIST_TRIES = 3
HEADER_WINDOW = 4 << 20
_COMMIT = re.compile(r"[0-9a-f]{40}")
_ETAG = re.compile(r"[0-9a-fA-F]{32,64}")


def cache_of(settings: HubSettings) -> Cache:
    """The cache that these settings mean."""
    return Cache(Path(settings.cache_dir).expanduser() if settings.cache_dir else default_folder())


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """What a repository has at a commit; `repo` in the hub's own letter case."""

    repo: str
    commit: str
    files: list[RepoFile]


class _Job(msgspec.Struct, frozen=True, kw_only=True):
    """One file to download."""

    file: RepoFile
    source: Source
    target: Path
    lock: Path


class Hub:
    """A hub, its cache, and the operator's policy.

    `memory` tells the bytes that models can have on this machine; larger ones are not downloaded.
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
        self._retry_delay = retry_delay
        self.cache = cache_of(settings)

    def allows(self, name: HubName) -> bool:
        """Whether a request may name this repository."""
        return allowed(name.repo, self._settings.allow)

    def listed(self) -> list[CachedModel]:
        """The models in the cache that a request may name. Blocking."""
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
        """The model's files; they are fetched if they are not all here, or `refresh` asks for news.

        Raises `HubError`. What has arrived is kept, however this ends.
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

    # Listing

    async def _list(self, name: HubName, revision: str) -> Listing:
        for tries_left in reversed(range(LIST_TRIES)):
            try:
                return await asyncio.to_thread(self._list_now, name, revision)
            except HubError as error:
                if not (error.failure.retryable and tries_left):
                    raise
                log.warning("hub does not answer", repo=name.repo, reason=str(error))
                await asyncio.sleep(self._retry_delay * (LIST_TRIES - tries_left))
        raise AssertionError("the last try returns or raises")

    def _list_now(self, name: HubName, revision: str) -> Listing:
        from huggingface_hub import HfApi

        api = HfApi(endpoint=self._settings.endpoint, token=self._settings.token)
        try:
            info = api.model_info(name.repo, revision=revision, files_metadata=True)
        except Exception as error:  # httpx's, OSError's and huggingface_hub's own have no common base
            raise _explain(name.repo, revision, error) from error
        files = [
            RepoFile(
                path=sibling.rfilename,
                size=sibling.size or 0,
                etag=sibling.lfs.sha256 if sibling.lfs else sibling.blob_id,
            )
            for sibling in info.siblings or []
            if _is_safe(sibling.rfilename)
        ]
        if info.sha is None or not _COMMIT.fullmatch(info.sha):
            raise failed(f"{name.repo}: the hub gave no commit, but {info.sha!r}")
        return Listing(
            repo=info.id if info.id.casefold() == name.repo.casefold() else name.repo,
            commit=info.sha,
            files=files,
        )

    # Fetching

    async def _fetch(
        self, listing: Listing, choice: Choice, revision: str, on_progress: OnProgress
    ) -> ModelFiles:
        jobs = await asyncio.to_thread(self._jobs, listing, choice)
        if jobs:
            self._check_memory(listing, choice)
            await self._check_disk(sum(job.file.size for job in jobs))
            if jobs[0].file == choice.parts[0]:
                header = await asyncio.to_thread(_remote_header, jobs[0].source)
                log.info(
                    "download starts",
                    repo=listing.repo,
                    variant=choice.label,
                    bytes=sum(job.file.size for job in jobs),
                    architecture=header.architecture,
                    context_length=header.context_length,
                )
            report = Reporter(listing.repo, choice.label, [job.file for job in jobs], on_progress)
            for job in jobs:
                await download(
                    self._session,
                    job.source,
                    job.target,
                    lock=job.lock,
                    on_bytes=partial(report.at, job.file),
                    retry_delay=self._retry_delay,
                )
        return await asyncio.to_thread(self._finish, listing, choice, revision)

    def _jobs(self, listing: Listing, choice: Choice) -> list[_Job]:
        """What is to be downloaded; blocking."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        headers = build_hf_headers(token=self._settings.token, library_name="llama-smart-proxy")
        jobs = []
        for file in choice.files:
            if file.etag is None or not _ETAG.fullmatch(file.etag):
                raise failed(f"{listing.repo}: the hub says nothing of the content of {file.path}")
            target = self.cache.blob(listing.repo, file.etag)
            if target.is_file() or self.cache.pointer(listing.repo, listing.commit, file.path).is_file():
                continue
            url = hf_hub_url(
                listing.repo, file.path, revision=listing.commit, endpoint=self._settings.endpoint
            )
            sha256 = file.etag if len(file.etag) == 64 else None
            source = Source(url=url, headers=headers, size=file.size, sha256=sha256)
            lock = self.cache.lock(listing.repo, file.etag)
            jobs.append(_Job(file=file, source=source, target=target, lock=lock))
        return jobs

    def _finish(self, listing: Listing, choice: Choice, revision: str) -> ModelFiles:
        paths = {file.path: self.cache.link(listing.repo, listing.commit, file) for file in choice.files}
        self.cache.set_revision(listing.repo, revision, listing.commit)
        return ModelFiles(
            path=paths[choice.parts[0].path],
            projector=paths[choice.projector.path] if choice.projector else None,
            label=choice.label,
        )

    def _check_memory(self, listing: Listing, choice: Choice) -> None:
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


def _remote_header(source: Source) -> Header:
    """Read the GGUF header where it is, so that what can never be served is not downloaded. Blocking."""
    from huggingface_hub import get_session, hf_raise_for_status

    def fetch(offset: int, count: int) -> bytes:
        headers = {**source.headers, "Range": f"bytes={offset}-{offset + count - 1}"}
        headers["Accept-Encoding"] = "identity"
        with get_session().stream("GET", source.url, headers=headers, follow_redirects=True) as response:
            hf_raise_for_status(response)
            if response.status_code != 206 and offset:
                raise HeaderError("cannot be read in parts: the server takes no ranges")
            data = bytearray()
            for piece in response.iter_bytes():
                data += piece
                if len(data) >= count:
                    break
        return bytes(data[:count])

    try:
        return read_header(fetch, source.size, window=min(HEADER_WINDOW, source.size))
    except HeaderError as error:
        raise failed(f"{source.url}: {error}", retryable=False) from error
    except Exception as error:
        raise _explain(source.url, "", error) from error


def _is_safe(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return (
        bool(parts)
        and not path.startswith("/")
        and ".." not in parts
        and "\\" not in path
        and "\0" not in path
    )


def _explain(what: str, revision: str, error: Any) -> HubError:
    """huggingface_hub's exceptions in words for the client."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    def because(message: str, **fields: Any) -> HubError:
        return failed(f"{what}: {message}", **fields)

    reason = getattr(error, "server_message", None) or ""
    if isinstance(error, GatedRepoError):
        advice = "ask for access on the hub, and set hub.token (or HF_TOKEN)"
        return because(f"access is restricted; {advice}. {reason}".strip(), retryable=False, kind="forbidden")
    if isinstance(error, RepositoryNotFoundError):
        return because(
            "there is no such repository on the hub, or it is private and hub.token is not set",
            retryable=False,
            kind="not_found",
        )
    if isinstance(error, RevisionNotFoundError):
        return because(f"it has no revision {revision!r}", retryable=False, kind="not_found")
    if isinstance(error, HFValidationError):
        return because(str(error), retryable=False, kind="not_found")
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status in (401, 403):
            advice = f"status {status}: {reason or 'access denied'}; is hub.token right?"
            return because(f"the hub refuses: {advice}", retryable=False, kind="forbidden")
        return because(f"the hub answered with status {status} {reason}".strip())
    return because(f"the hub cannot be reached: {str(error) or type(error).__name__}")
