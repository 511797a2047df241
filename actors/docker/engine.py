"""The Docker Engine's API: where it is, what kind of engine it is, and its refusals in words."""

import asyncio
import os
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import aiodocker
import aiohttp
import msgspec
from aiodocker.exceptions import DockerError
from yarl import URL

from actors.docker.spec import GpuDriver

DEFAULT_SOCKET = "/var/run/docker.sock"

_UNREACHABLE = 900
"""aiodocker's status for a connection that could not be made."""

_PIECE = 65536
"""Bytes of a log that are read at once."""

_TIMEOUT = aiohttp.ClientTimeout(total=60, sock_connect=5)
"""A start under load takes seconds; an engine that hangs must not hold a model for ever."""

PING = 2.0
"""Less than what probes wait for the gateway, who tell of an engine that hangs."""

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

_PORT_TAKEN = re.compile(r"port is already allocated|address already in use|failed to bind .*port", re.I)


class EngineError(Exception):
    """The engine is not there or refuses; the message says what to do.

    `status` is HTTP's, 900 if it could not be reached, and 0 if it did not answer to the end.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status

    @property
    def in_doubt(self) -> bool:
        """Whether the engine may have done it nevertheless."""
        return self.status == 0

    @property
    def port_taken(self) -> bool:
        """Whether somebody else has the port that was to be published."""
        return bool(_PORT_TAKEN.search(str(self)))


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What kind of engine it is. `gpus`: how it gives GPUs to containers, as far as it tells.

    `cdi_devices`: the CDI names that it knows; older engines know some and tell none.
    """

    version: str
    time: str
    """Its clock, as RFC 3339."""
    rootless: bool
    gpus: GpuDriver
    cdi_devices: frozenset[str] = frozenset()


class Engine:
    """One engine. Nothing is asked of it before the first call."""

    def __init__(self, address: str | None = None) -> None:
        self.address = address or os.environ.get("DOCKER_HOST") or f"unix://{_socket()}"
        self._client: aiodocker.Docker | None = None

    @property
    def is_local(self) -> bool:
        """Whether its processes are those of this machine."""
        return self.address.startswith("unix://")

    @property
    def shares_loopback(self) -> bool:
        """Whether a port that it publishes on the loopback address can be reached from here."""
        return self.is_local or URL(self.address).host in ("localhost", "127.0.0.1", "::1")

    @property
    def client(self) -> aiodocker.Docker:
        """aiodocker's client. Raises `EngineError` for an address that is none."""
        if self._client is None:
            try:
                self._client = aiodocker.Docker(url=self.address, timeout=_TIMEOUT)
            except ValueError as error:
                message = f"{self.address!r} is no address of a Docker Engine (DOCKER_HOST): {error}"
                raise EngineError(message) from error
        return self._client

    @contextmanager
    def errors(self, doing: str) -> Iterator[None]:
        """Whatever goes wrong inside is raised as an `EngineError`. `doing` completes "could not"."""
        try:
            yield
        except DockerError as error:
            raise self._in_words(error, doing) from error
        except TimeoutError as error:
            raise EngineError(
                f"the Docker Engine at {self.address} does not answer; could not {doing}"
            ) from error
        except aiohttp.ClientConnectorError as error:
            raise self._unreachable(error) from error
        except (aiohttp.ClientError, OSError, ValueError, KeyError) as error:
            message = f"the Docker Engine at {self.address} broke off: {error!r}; could not {doing}"
            raise EngineError(message) from error

    def _in_words(self, error: DockerError, doing: str) -> EngineError:
        if error.status != _UNREACHABLE:
            said = error.message.strip()
            advice = next((advice for pattern, advice in _ADVICE if pattern.search(said)), "")
            return EngineError(f"could not {doing}: {said}{advice and f' ({advice})'}", error.status)
        return self._unreachable(error.__context__)

    def _unreachable(self, cause: BaseException | None) -> EngineError:
        reason: object = cause.os_error if isinstance(cause, aiohttp.ClientConnectorError) else cause
        if isinstance(reason, PermissionError):
            advice = "may not be used by this user: add it to the group docker, or run the engine rootless"
        elif isinstance(reason, FileNotFoundError):
            advice = "is not there: start it, or say where it is (DOCKER_HOST or server_pool.docker.host)"
        else:
            text = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)
            advice = f"cannot be reached ({text}): is it running?"
        return EngineError(f"the Docker Engine at {self.address} {advice}", _UNREACHABLE)

    async def ping(self) -> None:
        """Return if it answers, within `PING` seconds. Raises `EngineError`."""
        with self.errors("be asked"):
            async with asyncio.timeout(PING), self.stream("be asked", "GET", "_ping"):
                pass

    async def info(self) -> EngineInfo:
        """Ask what kind of engine it is. Raises `EngineError`."""
        with self.errors("be asked"):
            told: Mapping[str, Any] = await self.client.system.info()
            devices = {
                str(device["ID"])
                for device in told.get("DiscoveredDevices") or ()
                if device.get("Source") == "cdi"
            }
            return EngineInfo(
                version=str(told["ServerVersion"]),
                time=str(told["SystemTime"]),
                rootless=any("rootless" in option for option in told.get("SecurityOptions") or ()),
                gpus=_gpu_driver(told, devices),
                cdi_devices=frozenset(devices),
            )

    @asynccontextmanager
    async def stream(
        self, doing: str, method: str, path: str, **params: str
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer that comes little by little. Raises `EngineError`, inside too; `doing` as in `errors`.

        aiodocker's own streams end without a word when the connection does, and some leave it open.
        """
        with self.errors(doing):
            version = "" if self.client.api_version == "auto" else f"/{self.client.api_version}"
            url = URL(f"{self.client.docker_host}{version}/{path}")
            timeout = aiohttp.ClientTimeout(sock_connect=_TIMEOUT.sock_connect)
            async with self.client.session.request(method, url, params=params, timeout=timeout) as response:
                if response.status != 200:
                    told = await response.json()
                    raise DockerError(response.status, str(told["message"]))
                try:
                    yield response
                finally:
                    response.close()

    async def close(self) -> None:
        """Give back its connections."""
        if self._client is not None:
            await self._client.close()


async def demultiplexed(log: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """A container's output, of which the engine writes frames: 8 bytes with a length, then that many."""
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
    """The usual socket, or that of a rootless engine where only this is there."""
    usual = Path(DEFAULT_SOCKET)
    own = Path(os.environ.get("XDG_RUNTIME_DIR", "/nonexistent")) / "docker.sock"
    return own if own.exists() and not usual.exists() else usual


def _gpu_driver(info: Mapping[str, Any], devices: set[str]) -> GpuDriver:
    """CDI where the engine knows NVIDIA's devices by it; else the nvidia driver, unless there is only CDI."""
    if any(device.startswith("nvidia.com/") for device in devices):
        return "cdi"
    return "cdi" if "nvidia" not in (info.get("Runtimes") or ()) and info.get("CDISpecDirs") else "nvidia"
