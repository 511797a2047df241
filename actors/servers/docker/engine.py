"""The client of the Docker Engine's API: the engine's address, its kind, and its errors in words."""

import asyncio
import os
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import aiodocker
import aiohttp
import msgspec
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from actors.errors import UNREADABLE
from actors.servers.docker import schema
from actors.servers.docker.spec import GpuDriver
from actors.terminal import printable

DEFAULT_SOCKET = "/var/run/docker.sock"

_UNREACHABLE = 900
"""The status for a failed connection."""

ANSWER_LIMIT = 16 << 20
"""Most bytes of a complete answer; the largest is the list of containers."""
MESSAGE_LIMIT = 1000
"""Most characters of the engine's error message that are passed on."""

_PIECE = 65536
"""Most bytes of a log that are read at once."""

_TIMEOUT = aiohttp.ClientTimeout(total=60, sock_connect=5)
"""A start under load takes seconds; an engine that hangs must not hold a model for ever."""

PING = 2.0
"""Seconds for a ping. Less than the time-out of probes, so that the gateway can report a hung engine."""

_ADVICE = (
    (
        re.compile(r'could not select device driver "nvidia"'),
        "the engine cannot give NVIDIA GPUs to containers: install the NVIDIA Container Toolkit and run "
        "`nvidia-ctk runtime configure --runtime=docker`, or use CDI (server_pool.docker.gpus)",
    ),
    (
        re.compile(r'could not select device driver "cdi"|CDI device|unresolvable CDI'),
        "the engine does not know these GPUs by CDI: run `nvidia-ctk cdi generate "
        "--output=/etc/cdi/nvidia.yaml` (and set features.cdi in the engine's daemon.json before version 28)",
    ),
    (
        re.compile(r"bind source path does not exist|mount.* no such file"),
        "the engine's machine has no such file: the engine must see the models under the gateway's own paths",
    ),
    (
        re.compile(r"network .* not found"),
        "server_pool.docker.network must name a network of the engine that the gateway is on",
    ),
)

T = TypeVar("T")

_PORT_TAKEN = re.compile(r"port is already allocated|address already in use|failed to bind .*port", re.I)


class EngineError(Exception):
    """The engine is away or refuses. The message says what to do.

    `status` is HTTP's, 900 for a failed connection, and 0 for an incomplete answer.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status

    @property
    def in_doubt(self) -> bool:
        """Whether the engine may have carried out the request nevertheless."""
        return self.status == 0

    @property
    def port_taken(self) -> bool:
        """Whether the port to be published is taken."""
        return bool(_PORT_TAKEN.search(str(self)))


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The kind of engine. `gpus`: the driver by which containers get GPUs, if known.

    `cdi_devices`: the CDI names that it reports; older engines have some without reporting them.
    """

    version: str
    time: float
    """The engine's clock, as Unix seconds."""
    rootless: bool
    gpus: GpuDriver
    cdi_devices: frozenset[str] = frozenset()


class Engine:
    """One engine. No request is sent before the first call."""

    def __init__(self, address: str | None = None) -> None:
        self.address = address or os.environ.get("DOCKER_HOST") or f"unix://{_socket()}"
        self._client: aiodocker.Docker | None = None

    @property
    def is_local(self) -> bool:
        """Whether the engine's processes run on this machine."""
        return self.address.startswith("unix://")

    @property
    def shares_loopback(self) -> bool:
        """Whether a port that the engine publishes on loopback can be reached from here."""
        return self.is_local or URL(self.address).host in ("localhost", "127.0.0.1", "::1")

    @property
    def client(self) -> aiodocker.Docker:
        """aiodocker's client. Raises `EngineError` if the address is invalid."""
        if self._client is None:
            try:
                self._client = aiodocker.Docker(url=self.address, timeout=_TIMEOUT)
            except ValueError as error:
                message = f"{self.address!r} is no address of a Docker Engine (DOCKER_HOST): {error}"
                raise EngineError(message) from error
        return self._client

    @contextmanager
    def errors(self, doing: str) -> Iterator[None]:
        """Raise every fault in the block as an `EngineError`. `doing` completes "could not"."""
        try:
            yield
        except TimeoutError as error:
            raise EngineError(
                f"the Docker Engine at {self.address} does not answer; could not {doing}"
            ) from error
        except aiohttp.ClientConnectorError as error:
            raise self._unreachable(error.os_error) from error
        except UNREADABLE as error:
            message = (
                f"the Docker Engine at {self.address} says what it would not: {error}; could not {doing}"
            )
            raise EngineError(message) from error
        except (aiohttp.ClientError, HttpProcessingError, OSError, ValueError) as error:
            message = f"the Docker Engine at {self.address} broke off: {error!r}; could not {doing}"
            raise EngineError(message) from error

    @staticmethod
    def refused(text: str, status: int, doing: str) -> EngineError:
        """Make the error for the engine's message, with advice if there is some."""
        text = printable(text.strip())[:MESSAGE_LIMIT]
        advice = next((advice for pattern, advice in _ADVICE if pattern.search(text)), "")
        return EngineError(f"could not {doing}: {text}{advice and f' ({advice})'}", status)

    def _unreachable(self, reason: OSError) -> EngineError:
        if isinstance(reason, PermissionError):
            advice = "may not be used by this user: add it to the group docker, or run the engine rootless"
        elif isinstance(reason, FileNotFoundError):
            advice = "is not there: start it, or say where it is (DOCKER_HOST or server_pool.docker.host)"
        else:
            advice = f"cannot be reached ({reason.strerror or reason}): is it running?"
        return EngineError(f"the Docker Engine at {self.address} {advice}", _UNREACHABLE)

    async def ping(self) -> None:
        """Check that the engine answers within `PING` seconds. Raises `EngineError`."""
        with self.errors("be asked"):
            async with asyncio.timeout(PING), self.stream("be asked", "GET", "_ping"):
                pass

    async def info(self) -> EngineInfo:
        """Ask the engine for its kind. Raises `EngineError`."""
        info = await self.ask("be asked", "GET", "info", answer=schema.Info)
        devices = {device.id for device in info.discovered_devices or () if device.source == "cdi"}
        with self.errors("be asked"):
            moment = datetime.fromisoformat(info.system_time).timestamp()
        return EngineInfo(
            version=info.server_version,
            time=moment,
            rootless=any("rootless" in option for option in info.security_options or ()),
            gpus=_gpu_driver(info, devices),
            cdi_devices=frozenset(devices),
        )

    async def inspect(self, container: str, doing: str) -> schema.Inspected:
        """Inspect a container, by its id or name. Raises `EngineError`."""
        return await self.ask(doing, "GET", f"containers/{container}/json", answer=schema.Inspected)

    async def ask(
        self,
        doing: str,
        method: str,
        path: str,
        *,
        answer: type[T],
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, str] | None = None,
    ) -> T:
        """Return one complete answer, of bounded size and checked type.

        Raises `EngineError`; `doing` as in `errors`.
        """
        with self.errors(doing):
            async with (
                asyncio.timeout(_TIMEOUT.total),
                self.stream(doing, method, path, body=body, params=params) as response,
            ):
                return msgspec.json.decode(await _read_whole(response), type=answer)

    async def order(
        self, doing: str, method: str, path: str, *, params: Mapping[str, str] | None = None
    ) -> None:
        """Send an order that has no answer and no time limit. Raises `EngineError`."""
        async with self.stream(doing, method, path, params=params):
            pass

    @asynccontextmanager
    async def stream(
        self,
        doing: str,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, str] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Yield a streamed answer. Raises `EngineError`, in the block too; `doing` as in `errors`.

        aiodocker only makes the connections, because it would read an answer of any size and type.
        """
        with self.errors(doing):
            url = URL(f"{self.client.docker_host}/{path}")
            timeout = aiohttp.ClientTimeout(sock_connect=_TIMEOUT.sock_connect)
            async with self.client.session.request(
                method, url, params=params, json=body, timeout=timeout, allow_redirects=False
            ) as response:
                # 304: nothing had to be changed.
                if response.status not in (200, 201, 204, 304):
                    async with asyncio.timeout(_TIMEOUT.total):
                        text = await _read_whole(response)
                    raise self.refused(_message(text), response.status, doing)
                try:
                    yield response
                finally:
                    response.close()

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()


async def _read_whole(response: aiohttp.ClientResponse) -> bytes:
    """Read a complete body. Raises `ValueError` if it is too long."""
    data = bytearray()
    async for piece in response.content.iter_any():
        data += piece
        if len(data) > ANSWER_LIMIT:
            raise ValueError(f"it answers more than {ANSWER_LIMIT >> 20} MiB")
    return bytes(data)


def _message(text: bytes) -> str:
    try:
        return msgspec.json.decode(text, type=schema.EngineFault).message
    except UNREADABLE:
        return text.decode(errors="replace")


async def demultiplex(log: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Yield a container's output from the engine's frames: 8 bytes with a length, then that many bytes."""
    with suppress(asyncio.IncompleteReadError):
        while True:
            left = int.from_bytes((await log.content.readexactly(8))[4:])
            while left:
                piece = await log.content.read(min(left, _PIECE))
                if not piece:
                    return
                left -= len(piece)
                yield piece


def _socket() -> Path:
    """Return the usual socket, or a rootless engine's if only that exists."""
    usual = Path(DEFAULT_SOCKET)
    own = Path(os.environ.get("XDG_RUNTIME_DIR", "/nonexistent")) / "docker.sock"
    return own if own.exists() and not usual.exists() else usual


def _gpu_driver(info: schema.Info, devices: set[str]) -> GpuDriver:
    """Return CDI if the engine lists NVIDIA's devices by it or has no nvidia driver; else that driver."""
    if any(device.startswith("nvidia.com/") for device in devices):
        return "cdi"
    return "cdi" if "nvidia" not in (info.runtimes or ()) and info.cdi_spec_dirs else "nvidia"
