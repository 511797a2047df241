"""A stand-in for the Hugging Face hub, for the real client: it serves <folder>/<org>/<repo>/**.

It can be told to fail: see the attributes. It runs in a thread, so that blocking tests can use it.
"""

import asyncio
import hashlib
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Self

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Seen:
    """One request."""

    def __init__(self, request: web.Request) -> None:
        self.method = request.method
        self.path = request.path
        self.range = request.headers.get("Range")
        self.token = request.headers.get("Authorization")
        self.sent = 0

    @property
    def is_download(self) -> bool:
        """Whether it asked for a file, and not only for its header."""
        return "/resolve/" in self.path and not (self.range or "").startswith("bytes=0-")


SEEN = web.RequestKey("seen", Seen)


class StandInHub:
    """The hub while the `with` block lasts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: list[Seen] = []
        self.failures: list[tuple[int, dict[str, str]]] = []
        """Statuses and headers of the next answers."""
        self.cuts: list[int] = []
        """After how many bytes the next downloads are cut."""
        self.pace: tuple[int, float] | None = None
        """Bytes of each piece, and seconds after it."""
        self.gated: set[str] = set()
        """Repositories that need the token `good`."""
        self.takes_ranges = True
        self.lies_about_hash = False
        self.extra = b""
        """Sent after a file's own bytes."""
        self.redirect: str | None = None
        """Where downloads are sent to, as to a CDN."""
        self.arrived = threading.Event()
        """A download has begun."""
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self.url = ""
        self._sums: dict[tuple[str, int], str] = {}
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    @property
    def downloads(self) -> list[Seen]:
        """The requests for files, without those for headers."""
        return [seen for seen in self.seen if seen.is_download]

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()

        @web.middleware
        async def door(request: web.Request, handler: Handler) -> web.StreamResponse:
            seen = request[SEEN] = Seen(request)
            self.seen.append(seen)
            if self.failures:
                status, headers = self.failures.pop(0)
                return web.Response(status=status, headers=headers)
            return await handler(request)

        app = web.Application(middlewares=[door])
        repo = "{repo:[^/]+/[^/]+}"
        app.router.add_get("/api/models", self._search)
        app.router.add_get(f"/api/models/{repo}", self._info)
        app.router.add_get(f"/api/models/{repo}/revision/{{revision}}", self._info)
        app.router.add_get(f"/{repo}/resolve/{{revision}}/{{path:.+}}", self._resolve)
        app.router.add_get("/cdn/{path:.+}", self._send)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self._ready.set()
        await self._stop.wait()
        await runner.cleanup()

    def _repo(self, request: web.Request) -> Path:
        wanted = request.match_info["repo"].casefold()
        for folder in self.folder.glob("*/*"):
            if str(folder.relative_to(self.folder)).casefold() == wanted:
                return folder
        # The real hub answers 401 to unknown repositories without a token.
        raise web.HTTPUnauthorized(
            headers={"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}
        )

    def sum(self, file: Path) -> str:
        """The sha256 that is announced."""
        key = (str(file), file.stat().st_mtime_ns)
        if key not in self._sums:
            self._sums[key] = hashlib.sha256(file.read_bytes()).hexdigest()
        return "0" * 64 if self.lies_about_hash else self._sums[key]

    def commit(self, folder: Path) -> str:
        """The revision of a repository: of what is in it."""
        sums = "".join(self.sum(file) for file in sorted(folder.rglob("*")) if file.is_file())
        return hashlib.sha1(sums.encode()).hexdigest()

    async def _search(self, request: web.Request) -> web.Response:
        query = request.query
        assert query["filter"] == "gguf"
        names = [str(folder.relative_to(self.folder)) for folder in sorted(self.folder.glob("*/*"))]
        found = [
            {"id": name, "modelId": name, "downloads": place, "likes": 1, "tags": ["gguf"]}
            for place, name in enumerate(names)
            if query["search"].casefold() in name.casefold()
            and query.get("author", name.partition("/")[0]).casefold() == name.partition("/")[0].casefold()
        ]
        return web.json_response(found)

    async def _info(self, request: web.Request) -> web.Response:
        folder = self._repo(request)
        if request.match_info.get("revision", "main") not in ("main", self.commit(folder)):
            raise web.HTTPNotFound(headers={"X-Error-Code": "RevisionNotFound"})
        siblings = [
            {
                "rfilename": str(file.relative_to(folder)),
                "size": file.stat().st_size,
                "blobId": self.sum(file)[:40],
                "lfs": {"sha256": self.sum(file), "size": file.stat().st_size, "pointerSize": 134},
            }
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        ]
        name = str(folder.relative_to(self.folder))
        body: dict[str, Any] = {"id": name, "modelId": name, "sha": self.commit(folder), "private": False}
        return web.json_response({**body, "gated": False, "tags": ["gguf"], "siblings": siblings})

    async def _resolve(self, request: web.Request) -> web.StreamResponse:
        folder = self._repo(request)
        name = str(folder.relative_to(self.folder))
        if name in self.gated and request.headers.get("Authorization") != "Bearer good":
            message = f"Access to model {name} is restricted."
            raise web.HTTPForbidden(headers={"X-Error-Code": "GatedRepo", "X-Error-Message": message})
        path = request.match_info["path"]
        if not (folder / path).is_file():
            raise web.HTTPNotFound(headers={"X-Error-Code": "EntryNotFound"})
        if self.redirect is not None:
            raise web.HTTPFound(f"{self.redirect}/cdn/{name}/{path}")
        return await self._send_file(request, folder / path)

    async def _send(self, request: web.Request) -> web.StreamResponse:
        return await self._send_file(request, self.folder / request.match_info["path"])

    async def _send_file(self, request: web.Request, file: Path) -> web.StreamResponse:
        size = file.stat().st_size
        wanted = request.http_range if self.takes_ranges else slice(None)
        start = wanted.start or 0
        stop = min(wanted.stop or size, size)
        if start >= size:
            raise web.HTTPRequestRangeNotSatisfiable(headers={"Content-Range": f"bytes */{size}"})
        headers = {"ETag": f'"{self.sum(file)}"', "Content-Length": str(stop - start + len(self.extra))}
        headers["X-Repo-Commit"] = self.commit(
            self.folder / "/".join(file.relative_to(self.folder).parts[:2])
        )
        partial = (start, stop) != (0, size) or (self.takes_ranges and "Range" in request.headers)
        if partial:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        response = web.StreamResponse(status=206 if partial else 200, headers=headers)
        await response.prepare(request)
        seen = request[SEEN]
        cut = self.cuts.pop(0) if self.cuts and seen.is_download else None
        if seen.is_download:
            self.arrived.set()
        data = file.read_bytes()[start:stop] + self.extra
        piece, pause = self.pace if self.pace and seen.is_download else (1 << 16, 0.0)
        for at in range(0, len(data), piece):
            part = data[at : at + piece]
            if cut is not None and at + len(part) >= cut:
                await response.write(part[: cut - at])
                await asyncio.sleep(0.02)
                assert request.transport is not None
                request.transport.abort()
                return response
            await response.write(part)
            seen.sent += len(part)
            if pause:
                await asyncio.sleep(pause)
        return response
