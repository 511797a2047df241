"""An Ollama daemon's HTTP API. Every answer is limited in size; every fault is an `OllamaError`."""

import os
import re
import time
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any, TypeVar

import aiohttp
import msgspec
from yarl import URL

from actors.config.schema import daemon_address
from actors.errors import UNREADABLE
from actors.model_names import ollama_name
from actors.progress import OnProgress, Reporter

ANSWER_LIMIT = 8 << 20
"""Most bytes of an answer. The largest are the list of models, and the licenses of a model."""
LINE_LIMIT = 64 << 10
"""Most bytes of a line of progress."""
ERROR_LIMIT = 500
"""Most characters of a daemon's error that are passed on."""

_WEIGHTS = re.compile(r"^FROM\s.*sha256[-:]([0-9a-f]{64})\s*$", re.M)

MOST_FILES = 1000
"""Most files of one model in a pull."""

T = TypeVar("T")

Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 50)]
"""A number of bytes or tokens, so limited that sums of them fit into JSON and SQLite."""


class OllamaError(Exception):
    """A request to a daemon failed. The message names the daemon and the model.

    `status`: HTTP's, 0 without an answer. `away`: nothing listens there. `late`: the answer did not come in
    time.
    """

    def __init__(self, message: str, *, status: int = 0, away: bool = False, late: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.away = away
        self.late = late


class Details(msgspec.Struct, frozen=True):
    """Ollama's description of a model."""

    parent_model: str = ""
    format: str = ""
    family: str = ""
    families: tuple[str, ...] | None = None
    parameter_size: str = ""
    quantization_level: str = ""
    context_length: Count = 0
    embedding_length: Count = 0


class Tag(msgspec.Struct, frozen=True):
    """A model of the daemon; `size` is bytes on its disk. A remote model runs on ollama.com."""

    name: str
    modified_at: str = ""
    size: Count = 0
    digest: str = ""
    details: Details = Details()
    capabilities: tuple[str, ...] = ()
    remote_host: str = ""


class Running(msgspec.Struct, frozen=True):
    """A loaded model: its bytes in all and on GPUs. `context_length` is in tokens.

    Models with the same `weights` share one loaded instance, listed under the name of the first one.
    """

    name: str
    size: Count = 0
    size_vram: Count = 0
    context_length: Count = 0
    digest: str = ""
    weights: str = ""


class Shown(msgspec.Struct, frozen=True):
    """The answer of /api/show: the model's header, without long lists, and its Modelfile."""

    model_info: Mapping[str, Any] = {}
    parameters: str = ""
    modelfile: str = ""
    capabilities: tuple[str, ...] = ()
    details: Details = Details()

    @property
    def weights(self) -> str:
        """The blob of the weights; empty if unknown."""
        found = _WEIGHTS.search(self.modelfile)
        return found[1] if found else ""

    @property
    def only_embeds(self) -> bool:
        """Whether the model only makes embeddings."""
        return "embedding" in self.capabilities and "completion" not in self.capabilities


class _Version(msgspec.Struct, frozen=True):
    version: str


class _Tags(msgspec.Struct, frozen=True):
    models: tuple[Tag, ...] | None


class _Ps(msgspec.Struct, frozen=True):
    models: tuple[Running, ...] | None


class _Anything(msgspec.Struct, frozen=True):
    model: str


class _Line(msgspec.Struct, frozen=True):
    status: str = ""
    digest: str = ""
    total: Count = 0
    completed: Count = 0
    error: str = ""


class _Fault(msgspec.Struct, frozen=True):
    error: str


def find(running: Mapping[str, Running], model: str, weights: str) -> Running | None:
    """Find a loaded model by its canonical name or by its weights."""
    found = running.get(model)
    if found is None and weights:
        found = next((other for other in running.values() if other.weights == weights), None)
    return found


class OllamaClient:
    """One daemon's API. `timeout`: seconds for answers that need no computation.

    Raises `ValueError` if the address is not of the form http://host[:port].
    """

    def __init__(self, name: str, url: str, session: aiohttp.ClientSession, *, timeout: float = 10.0) -> None:
        self.host, self.port = daemon_address(url)
        self.name = name
        self.url = str(URL.build(scheme="http", host=self.host, port=self.port))
        self.seen_at = 0.0
        """Monotonic time of the daemon's latest answer of any kind."""
        self._session = session
        self.timeout = timeout

    async def version(self) -> str:
        """Return the daemon's version, such as 0.32.1."""
        return (await self._ask("GET", "/api/version", _Version)).version

    async def tags(self) -> tuple[Tag, ...]:
        """Return the daemon's models."""
        return (await self._ask("GET", "/api/tags", _Tags)).models or ()

    async def ps(self) -> dict[str, Running]:
        """Return the loaded models, by canonical name. The daemon answers late while it waits for memory."""
        running = (await self._ask("GET", "/api/ps", _Ps)).models or ()
        return {ollama_name(model.name): model for model in running}

    async def show(self, model: str) -> Shown:
        """Return the daemon's description of a model."""
        return await self._ask("POST", "/api/show", Shown, {"model": model}, model=model)

    async def load(
        self, model: str, options: Mapping[str, Any], *, embeds: bool = False, timeout: float = 1800.0
    ) -> None:
        """Load a model without an idle time-out; return when it is loaded.

        Cancelling the call ends the load. Ollama's own limit is five minutes without progress. `embeds`: the
        model only makes embeddings, so it is loaded by a request for embeddings.
        """
        body = {"model": model, "keep_alive": -1, "options": dict(options), "stream": False}
        path = "/api/embed" if embeds else "/api/generate"
        await self._ask("POST", path, _Anything, body, model=model, timeout=timeout)

    async def unload(self, model: str) -> None:
        """Ask the daemon to unload a model after its requests, without waiting.

        Has no effect during a load.
        """
        body = {"model": model, "keep_alive": 0, "stream": False}
        await self._ask("POST", "/api/generate", _Anything, body, model=model)

    async def pull(self, model: str, on_progress: OnProgress, *, silence: float = 600.0) -> None:
        """Let the daemon download a model.

        Fails after `silence` seconds without progress; cancelling ends it.
        """
        report = Reporter(on_progress)
        async for line in self._lines("/api/pull", {"model": model, "stream": True}, model, silence):
            if line.error:
                status = 404 if "file does not exist" in line.error else 0
                raise self._failed(f"could not pull it: {line.error[:ERROR_LIMIT]}", model, status=status)
            if line.status == "success":
                return
            if line.digest and line.total > 0:
                report.at(line.digest, line.completed, line.total)
                if report.parts > MOST_FILES:
                    raise self._failed("tells of files without end", model)
        raise self._failed("ended the pull without a word of success", model)

    def _failed(
        self, what: str, model: str = "", *, status: int = 0, away: bool = False, late: bool = False
    ) -> OllamaError:
        of = f", model {model!r}" if model else ""
        message = f"Ollama daemon {self.name!r} ({self.url}){of}: {what}"
        return OllamaError(message, status=status, away=away, late=late)

    async def _ask(
        self,
        method: str,
        path: str,
        answer: type[T],
        body: Mapping[str, Any] | None = None,
        *,
        model: str = "",
        timeout: float | None = None,
    ) -> T:
        limit = aiohttp.ClientTimeout(total=timeout or self.timeout, sock_connect=self.timeout)
        data = b""
        try:
            async with self._session.request(
                method, self.url + path, json=body, timeout=limit, allow_redirects=False
            ) as response:
                self.seen_at = time.monotonic()
                data = await self._body(response, path, model)
                self.seen_at = time.monotonic()
                if response.status != 200:
                    raise self._refused(response.status, path, data, model)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise self._no_answer(error, path, model, limit.total) from error
        try:
            return msgspec.json.decode(data, type=answer)
        except UNREADABLE as error:
            raise self._failed(f"{path} answered what Ollama would not: {error}", model) from error

    async def _lines(
        self, path: str, body: Mapping[str, Any], model: str, silence: float
    ) -> AsyncIterator[_Line]:
        limit = aiohttp.ClientTimeout(total=None, sock_connect=self.timeout, sock_read=silence)
        try:
            async with self._session.post(
                self.url + path, json=body, timeout=limit, allow_redirects=False
            ) as response:
                if response.status != 200:
                    raise self._refused(response.status, path, await self._body(response, path, model), model)
                rest = b""
                async for piece in response.content.iter_any():
                    self.seen_at = time.monotonic()
                    *lines, rest = (rest + piece).split(b"\n")
                    if len(rest) > LINE_LIMIT:
                        raise self._failed(f"{path} sent a line without an end", model)
                    for line in filter(None, lines):
                        yield msgspec.json.decode(line, type=_Line)
        except UNREADABLE as error:
            raise self._failed(f"{path} sent what Ollama would not: {error}", model) from error
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise self._no_answer(error, path, model, silence) from error

    async def _body(self, response: aiohttp.ClientResponse, path: str, model: str) -> bytes:
        data = bytearray()
        async for piece in response.content.iter_any():
            data += piece
            if len(data) > ANSWER_LIMIT:
                raise self._failed(f"{path} answered more than {ANSWER_LIMIT >> 20} MiB", model)
        return bytes(data)

    def _refused(self, status: int, path: str, data: bytes, model: str) -> OllamaError:
        try:
            text = msgspec.json.decode(data, type=_Fault).error
        except UNREADABLE:
            text = data.decode(errors="replace")
        return self._failed(f"{path} answered {status}: {text.strip()[:ERROR_LIMIT]}", model, status=status)

    def _no_answer(self, error: Exception, path: str, model: str, limit: float | None) -> OllamaError:
        if isinstance(error, aiohttp.ClientConnectorError):
            errno = error.os_error.errno or 0
            # errno values of failed name lookups are negative
            reason = os.strerror(errno) if errno > 0 else error.os_error.strerror or str(error.os_error)
            return self._failed(f"is away: {reason}", model, away=True)
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            return self._failed(f"is away: no connection within {self.timeout:g} s", model, away=True)
        if isinstance(error, TimeoutError):
            return self._failed(f"{path} gave no answer within {limit:g} s", model, late=True)
        return self._failed(f"{path} broke off: {str(error) or type(error).__name__}", model)
