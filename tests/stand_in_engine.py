"""A stand-in for the Docker Engine, on a Unix socket: recorded answers, and misbehaviour on order.

The answers are those of Docker 20.10.24 and, for what is known of CDI, 28.2; shortened to what is read.
Its containers answer no HTTP: they run until the test ends them.
"""

import asyncio
import fnmatch
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

Json = dict[str, Any]

PULL: list[Json] = [
    {"status": "Pulling from ggml-org/llama.cpp", "id": "server"},
    {"status": "Pulling fs layer", "progressDetail": {}, "id": "a1"},
    {"status": "Pulling fs layer", "progressDetail": {}, "id": "b2"},
    {"status": "Already exists", "progressDetail": {}, "id": "c3"},
    {
        "status": "Downloading",
        "progressDetail": {"current": 1000, "total": 4000},
        "progress": "[=> ]",
        "id": "a1",
    },
    {
        "status": "Downloading",
        "progressDetail": {"current": 500, "total": 1000},
        "progress": "[=> ]",
        "id": "b2",
    },
    {"status": "Verifying Checksum", "progressDetail": {}, "id": "b2"},
    {"status": "Download complete", "progressDetail": {}, "id": "b2"},
    {
        "status": "Downloading",
        "progressDetail": {"current": 4000, "total": 4000},
        "progress": "[=>]",
        "id": "a1",
    },
    {
        "status": "Extracting",
        "progressDetail": {"current": 32, "total": 4000},
        "progress": "[> ]",
        "id": "a1",
    },
    {"status": "Pull complete", "progressDetail": {}, "id": "a1"},
    {"status": "Pull complete", "progressDetail": {}, "id": "b2"},
    {"status": "Digest: sha256:9b2b"},
    {"status": "Status: Downloaded newer image for ghcr.io/ggml-org/llama.cpp:server"},
]
"""Two layers are new."""

NOT_FOUND_IN_REGISTRY: Json = {
    "errorDetail": {"message": "manifest for ghcr.io/ggml-org/llama.cpp:server not found: manifest unknown"},
    "error": "manifest for ghcr.io/ggml-org/llama.cpp:server not found: manifest unknown: manifest unknown",
}


class StandInEngine:
    """What a test orders and looks at."""

    def __init__(self) -> None:
        self.info: Json = {
            "ServerVersion": "20.10.24+dfsg1",
            "SystemTime": "2026-11-25T13:50:10.587517281Z",
            "SecurityOptions": ["name=seccomp,profile=default"],
            "Runtimes": {"runc": {"path": "runc"}},
        }
        self.images = {"here": "sha256:1111"}
        self.pulls: list[Json] = []
        """What a pull tells; without more it brings the image."""
        self.cut_pull = False
        self.hold = asyncio.Event()
        """While it is not set, what is in `held` waits."""
        self.held: set[str] = set()
        self.refuse: dict[str, tuple[int, str]] = {}
        """Statuses and messages by request, such as "DELETE /containers"."""
        self.says: dict[str, bytes] = {}
        """What is answered instead, by patterns such as "GET /containers/*/json"."""
        self.containers: dict[str, Json] = {}
        self.requests: list[str] = []
        self.log = b""
        self._streams: set[asyncio.Queue[Json | None]] = set()

    def happens(self, action: str, container: str, **attributes: str) -> None:
        """Tell all who listen of an event."""
        for stream in self._streams:
            stream.put_nowait(
                {
                    "Type": "container",
                    "Action": action,
                    "Actor": {"ID": container, "Attributes": attributes},
                    "time": 1764078610,
                    "timeNano": 1764078610587517281,
                }
            )

    def die(self, container: str, code: int, *, oom: bool = False) -> None:
        """The container ends."""
        self.containers[container]["State"] |= {"Running": False, "ExitCode": code, "OOMKilled": oom}
        self.happens("die", container, exitCode=str(code))

    def end_events(self) -> None:
        """All event streams end without a word."""
        for stream in self._streams:
            stream.put_nowait(None)

    @property
    def listeners(self) -> int:
        """How many listen to events."""
        return len(self._streams)

    def app(self) -> web.Application:
        """Its API, with any version."""
        app = web.Application(middlewares=[self._misbehave])
        routes = {
            "/_ping": ("GET", self._ping),
            "/version": ("GET", self._version),
            "/info": ("GET", self._info),
            "/events": ("GET", self._events),
            "/images/create": ("POST", self._pull),
            "/images/{name:.+}/json": ("GET", self._image),
            "/containers/create": ("POST", self._create),
            "/containers/json": ("GET", self._list),
            "/containers/{id}/json": ("GET", self._inspect),
            "/containers/{id}/start": ("POST", self._start),
            "/containers/{id}/stop": ("POST", self._stop),
            "/containers/{id}/logs": ("GET", self._logs),
            "/containers/{id}": ("DELETE", self._delete),
        }
        for path, (method, handler) in routes.items():
            app.router.add_route(method, path, handler)
            app.router.add_route(method, f"/v1.41{path}", handler)
        return app

    @web.middleware
    async def _misbehave(self, request: web.Request, handler: Any) -> web.StreamResponse:
        what = f"{request.method} {request.path.removeprefix('/v1.41')}"
        self.requests.append(what)
        answer = None
        for prefix, (status, message) in self.refuse.items():
            if what.startswith(prefix):
                answer = web.json_response({"message": message}, status=status)
        for pattern, body in self.says.items():
            if fnmatch.fnmatchcase(what, pattern):
                answer = web.Response(body=body, content_type="application/json")
        if answer is None:
            answer = await handler(request)
        if any(what.startswith(prefix) for prefix in self.held):
            await self.hold.wait()
        return answer

    async def _ping(self, _: web.Request) -> web.Response:
        return web.Response(text="OK")

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response({"Version": "20.10.24+dfsg1", "ApiVersion": "1.41"})

    async def _info(self, _: web.Request) -> web.Response:
        return web.json_response(self.info)

    async def _image(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self.images:
            return web.json_response({"message": f"No such image: {name}"}, status=404)
        return web.json_response({"Id": self.images[name]})

    async def _pull(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        for told in self.pulls:
            await response.write(web.json_response(told).body + b"\r\n")  # type: ignore[operator]
        if self.cut_pull:
            assert request.transport is not None
            request.transport.abort()
        elif not any("error" in told for told in self.pulls):
            self.images[request.query["fromImage"]] = "sha256:2222"
        return response

    async def _events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        stream: asyncio.Queue[Json | None] = asyncio.Queue()
        self._streams.add(stream)
        try:
            while (event := await stream.get()) is not None:
                await response.write(web.json_response(event).body + b"\n")  # type: ignore[operator]
        finally:
            self._streams.discard(stream)
        return response

    async def _create(self, request: web.Request) -> web.Response:
        config = await request.json()
        created = secrets.token_hex(32)
        self.containers[created] = {
            "Id": created,
            "Name": f"/{request.query['name']}",
            "Config": config,
            "State": {"Status": "created", "Running": False, "ExitCode": 0, "OOMKilled": False, "Error": ""},
        }
        return web.json_response({"Id": created, "Warnings": []}, status=201)

    def _find(self, request: web.Request) -> Json:
        wanted = request.match_info["id"]
        for container in self.containers.values():
            if wanted in (container["Id"], container["Name"].lstrip("/")):
                return container
        message = f'{{"message":"No such container: {wanted}"}}'
        raise web.HTTPNotFound(text=message, content_type="application/json")

    async def _start(self, request: web.Request) -> web.Response:
        container = self._find(request)
        container["State"] |= {"Status": "running", "Running": True, "Pid": 4242}
        container["NetworkSettings"] = {
            "Ports": {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": "9"}]},
            "Networks": {"models": {"IPAddress": "172.18.0.3"}},
        }
        return web.Response(status=204)

    async def _stop(self, request: web.Request) -> web.Response:
        container = self._find(request)
        if container["State"]["Running"]:
            self.die(container["Id"], 0)
        return web.Response(status=204)

    async def _inspect(self, request: web.Request) -> web.Response:
        return web.json_response(self._find(request))

    async def _delete(self, request: web.Request) -> web.Response:
        container = self._find(request)
        del self.containers[container["Id"]]
        self.happens("destroy", container["Id"])
        return web.Response(status=204)

    async def _list(self, _: web.Request) -> web.Response:
        return web.json_response(
            [
                {
                    "Id": container["Id"],
                    "Names": [container["Name"]],
                    "Labels": container["Config"]["Labels"],
                    "State": container["State"]["Status"] if container["State"]["Running"] else "exited",
                }
                for container in self.containers.values()
            ]
        )

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/vnd.docker.raw-stream"})
        await response.prepare(request)
        await response.write(self.log)
        return response


def frame(text: bytes, stream: int = 2) -> bytes:
    """A piece of a container's log as the engine sends it: stream, length, bytes."""
    return bytes([stream, 0, 0, 0]) + len(text).to_bytes(4, "big") + text


@asynccontextmanager
async def stand_in_engine(path: Path) -> AsyncIterator[StandInEngine]:
    """One that listens at `path`."""
    engine = StandInEngine()
    runner = web.AppRunner(engine.app(), handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, str(path)).start()
    try:
        yield engine
    finally:
        engine.hold.set()
        engine.end_events()
        await runner.cleanup()
