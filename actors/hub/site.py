"""A hub over HTTP: the files of a repository, their addresses, and the header of a model file.

All answers of a hub are read here. Any other answer or fault is a `HubError`.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from email.utils import parsedate_to_datetime
from pathlib import PurePosixPath
from typing import Annotated, Literal
from urllib.parse import quote, urlencode

import aiohttp
import msgspec

from actors.config.schema import HubSettings
from actors.errors import UNREADABLE
from actors.hub.download import REASON_LIMIT, SILENCE_LIMIT, DownloadSource, HubError, failed
from actors.memory.gguf import Header, HeaderError, read_header
from actors.model_names import RepoFile
from actors.terminal import printable

ANSWER_LIMIT = 16 << 20
"""Most bytes of a listing; 10,000 files take about 4 MiB."""
LIST_TIMEOUT = 60.0
SEARCH_TIMEOUT = 20.0
LOOK_TIMEOUT = 10.0
HEADER_WINDOW = 4 << 20

_COMMIT = re.compile(r"[0-9a-f]{40}")
_ETAG = re.compile(r"[0-9a-fA-F]{32,64}")

Size = Annotated[int, msgspec.Meta(ge=0, lt=1 << 50)]


class RepoListing(msgspec.Struct, frozen=True, kw_only=True):
    """The files of a repository at a commit; `repo` in the hub's own letter case."""

    repo: str
    commit: str
    files: list[RepoFile]


class FoundRepo(msgspec.Struct, frozen=True, kw_only=True):
    """A repository that a search found, in the hub's own letter case; `updated` is an ISO time."""

    id: str
    downloads: int | None = None
    likes: int | None = None
    updated: str | None = msgspec.field(name="lastModified", default=None)


class _Lfs(msgspec.Struct, frozen=True):
    sha256: str


class _Sibling(msgspec.Struct, frozen=True):
    path: str = msgspec.field(name="rfilename")
    size: Size | None = None
    blob: str | None = msgspec.field(name="blobId", default=None)
    lfs: _Lfs | None = None


class _Info(msgspec.Struct, frozen=True):
    sha: str = ""
    id: str = ""
    siblings: tuple[_Sibling, ...] | None = None


Access = Literal["anonymous", "granted", "refused", "unknown"]


class SiteState(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the hub answers, and takes our token.

    `clock`: its `Date`, as Unix time; None without one. `access`: `anonymous` without a token; `unknown` if
    the hub does not say.
    """

    endpoint: str
    clock: float | None
    access: Access


class Site:
    """One hub and its token. `session` uses the environment's proxies (`download_session`)."""

    def __init__(self, settings: HubSettings, session: aiohttp.ClientSession) -> None:
        self._settings = settings
        self._session = session

    async def list(self, repo: str, revision: str) -> RepoListing:
        """List the files of a repository. Raises `HubError`."""
        endpoint, headers = await asyncio.to_thread(self._access)
        url = f"{endpoint}/api/models/{repo}/revision/{quote(revision, safe='')}?blobs=true"
        limit = aiohttp.ClientTimeout(total=LIST_TIMEOUT, sock_connect=SILENCE_LIMIT)
        async with self._answer(repo, url, headers, limit, revision) as response:
            data = await _read_all(repo, response)
        return await asyncio.to_thread(_read_listing, repo, data)

    async def search(self, words: str, owner: str | None = None) -> tuple[FoundRepo, ...]:
        """Search repositories with GGUF files, of one owner or of all; the most downloaded first.

        Raises `HubError`.
        """
        endpoint, headers = await asyncio.to_thread(self._access)
        asked = {"search": words, "filter": "gguf", "sort": "downloads", "direction": "-1", "limit": "100"}
        url = f"{endpoint}/api/models?{urlencode(asked | ({'author': owner} if owner else {}))}"
        limit = aiohttp.ClientTimeout(total=SEARCH_TIMEOUT, sock_connect=SILENCE_LIMIT)
        async with self._answer("the search", url, headers, limit) as response:
            data = await _read_all("the search", response)
        try:
            return msgspec.json.decode(data, type=tuple[FoundRepo, ...])
        except UNREADABLE as error:
            raise failed(f"the search: the hub's answer cannot be read: {error}") from error

    async def look(self) -> SiteState:
        """Ask whether the hub can be reached and takes the token. Raises `HubError`."""
        endpoint, headers = await asyncio.to_thread(self._access)
        has_token = "Authorization" in headers
        url = f"{endpoint}/api/{'whoami-v2' if has_token else 'models?limit=1'}"
        limit = aiohttp.ClientTimeout(total=LOOK_TIMEOUT)
        with _faults(endpoint):
            async with self._session.get(url, headers=headers, timeout=limit) as response:
                status, date = response.status, response.headers.get("Date", "")
        if status >= 500:
            raise failed(f"{endpoint}: the hub answered with status {status}")
        clock = None
        with suppress(ValueError):
            clock = parsedate_to_datetime(date).timestamp()
        access: Access = "anonymous"
        if has_token:  # a mirror may not know this path
            access = "granted" if status == 200 else "refused" if status in (401, 403) else "unknown"
        return SiteState(endpoint=endpoint, clock=clock, access=access)

    def source(self, listing: RepoListing, file: RepoFile) -> DownloadSource:
        """Return the address of a listed file.

        Raises `HubError` if the listing has no hash or size. Blocking.
        """
        if file.etag is None or not _ETAG.fullmatch(file.etag):
            raise failed(f"{listing.repo}: the hub says nothing of the content of {file.path!r}")
        endpoint, headers = self._access()
        return DownloadSource(
            url=f"{endpoint}/{listing.repo}/resolve/{listing.commit}/{quote(file.path)}",
            headers=headers,
            size=file.size,
            sha256=file.etag if len(file.etag) == 64 else None,
        )

    async def read_header(self, source: DownloadSource) -> Header:
        """Read the header of a GGUF file on the hub, to avoid downloading a model that can never be served.

        Raises `HubError`.
        """
        loop = asyncio.get_running_loop()

        def fetch(offset: int, count: int) -> bytes:
            return asyncio.run_coroutine_threadsafe(self._read_part(source, offset, count), loop).result()

        window = min(HEADER_WINDOW, source.size)
        try:
            return await asyncio.to_thread(read_header, fetch, source.size, window=window)
        except HeaderError as error:
            raise failed(f"{source.url}: {error}", retryable=False) from error

    async def _read_part(self, source: DownloadSource, offset: int, count: int) -> bytes:
        """Read at most `count` bytes of a file. Raises `HubError`, `HeaderError`."""
        headers = {**source.headers, "Range": f"bytes={offset}-{offset + count - 1}"}
        headers["Accept-Encoding"] = "identity"
        limit = aiohttp.ClientTimeout(total=LIST_TIMEOUT, sock_connect=SILENCE_LIMIT, sock_read=SILENCE_LIMIT)
        async with self._answer(source.url, source.url, headers, limit) as response:
            if response.status != 206 and offset:
                raise HeaderError("cannot be read in parts: the server takes no ranges")
            data = bytearray()
            async for piece in response.content.iter_any():
                data += piece
                if len(data) >= count:
                    break
        return bytes(data[:count])

    @asynccontextmanager
    async def _answer(
        self,
        what: str,
        url: str,
        headers: Mapping[str, str],
        timeout: aiohttp.ClientTimeout,
        revision: str = "",
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request and yield a good response; `what` names the request.

        Raises `HubError`, in the block too.
        """
        with _faults(what):
            async with self._session.get(url, headers=headers, timeout=timeout) as response:
                if response.status not in (200, 206):
                    raise _refusal(what, revision, response)
                yield response

    def _access(self) -> tuple[str, dict[str, str]]:
        """Return the hub's address and the headers of each request. Raises `HubError`. Blocking."""
        from huggingface_hub import constants, get_token

        if constants.HF_HUB_OFFLINE:
            raise failed("HF_HUB_OFFLINE is set, and not all of the model is here", retryable=False)
        endpoint = (self._settings.endpoint or constants.ENDPOINT).rstrip("/")
        token = self._settings.token or get_token()
        headers = {"User-Agent": "llama-smart-proxy"}
        return endpoint, {**headers, "Authorization": f"Bearer {token}"} if token else headers


@contextmanager
def _faults(what: str) -> Iterator[None]:
    """Raise every fault of a request as a `HubError`; `what` names the request."""
    try:
        yield
    except HeaderError:
        raise
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        reason = printable(str(error))[:REASON_LIMIT] or type(error).__name__
        raise failed(f"{what}: the hub cannot be reached: {reason}") from error


async def _read_all(what: str, response: aiohttp.ClientResponse) -> bytes:
    data = bytearray()
    async for piece in response.content.iter_any():
        data += piece
        if len(data) > ANSWER_LIMIT:
            raise failed(f"{what}: the hub's list has more than {ANSWER_LIMIT >> 20} MiB")
    return bytes(data)


def _read_listing(repo: str, data: bytes) -> RepoListing:
    try:
        info = msgspec.json.decode(data, type=_Info)
    except UNREADABLE as error:
        raise failed(f"{repo}: the hub's list cannot be read: {error}") from error
    if not _COMMIT.fullmatch(info.sha):
        raise failed(f"{repo}: the hub gave no commit, but {info.sha[:REASON_LIMIT]!r}")
    files = [
        RepoFile(path=one.path, size=one.size or 0, etag=one.lfs.sha256 if one.lfs else one.blob)
        for one in info.siblings or ()
        if _is_safe(one.path)
    ]
    same = info.id.casefold() == repo.casefold()
    return RepoListing(repo=info.id if same else repo, commit=info.sha, files=files)


def _is_safe(path: str) -> bool:
    """Whether a path stays in its folder and has only readable characters."""
    parts = PurePosixPath(path).parts
    return (
        bool(parts)
        and not path.startswith("/")
        and ".." not in parts
        and "\\" not in path
        and path.isprintable()
    )


def _refusal(what: str, revision: str, response: aiohttp.ClientResponse) -> HubError:
    """Describe an error status for the client. The codes are the hub's own."""
    status, code = response.status, response.headers.get("X-Error-Code")
    reason = printable(response.headers.get("X-Error-Message", ""))[:REASON_LIMIT]
    if code == "GatedRepo":
        advice = "ask for access on the hub, and set hub.token (or HF_TOKEN)"
        message = f"{what}: access is restricted; {advice}. {reason}".strip()
        return failed(message, retryable=False, kind="forbidden")
    if code == "RevisionNotFound":
        return failed(f"{what}: it has no revision {revision!r}", retryable=False, kind="not_found")
    # Without a token, the hub answers 401 also for a repository that does not exist.
    if code == "RepoNotFound" or (status == 401 and not reason.startswith("Invalid credentials")):
        message = f"{what}: there is no such repository on the hub, or it is private and hub.token is not set"
        return failed(message, retryable=False, kind="not_found")
    if status in (401, 403):
        advice = f"status {status}: {reason or 'access denied'}; is hub.token right?"
        return failed(f"{what}: the hub refuses: {advice}", retryable=False, kind="forbidden")
    return failed(f"{what}: the hub answered with status {status} {reason}".strip())
