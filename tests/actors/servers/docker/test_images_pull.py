"""A real engine pulls from a registry, which is a few lines of aiohttp on loopback."""

import asyncio
import gzip
import hashlib
import io
import json
import random
import secrets
import tarfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from aiohttp import web

from actors.progress import Progress
from actors.runtime import spawn
from actors.servers.docker.engine import Engine, EngineError
from actors.servers.docker.images import ensure_image, image_id
from tests.engines import EngineClient

TRIES = 5
"""Docker 20.10 now and then goes on with a layer although whoever asked for it has hung up."""
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


class Registry:
    """One image with one layer of some megabytes that no other image has."""

    def __init__(self) -> None:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            noise = tarfile.TarInfo("noise")
            noise.size = 8 << 20
            tar.addfile(noise, io.BytesIO(random.randbytes(noise.size)))
        tree = buffer.getvalue()
        layer = gzip.compress(tree, 1)
        config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {"Cmd": ["/none"]},
                "rootfs": {"type": "layers", "diff_ids": [digest_of(tree)]},
            }
        ).encode()
        self.blobs = {digest_of(blob): blob for blob in (layer, config)}
        self.manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": described(config, "application/vnd.docker.container.image.v1+json"),
                "layers": [described(layer, "application/vnd.docker.image.rootfs.diff.tar.gzip")],
            }
        ).encode()
        self.go_on = asyncio.Event()
        """Only half of the layer is sent before it is set."""
        self.halfway = asyncio.Event()
        """Half of the layer was sent."""
        self.left = asyncio.Event()
        """The engine hung up in the middle of the layer."""

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/v2/", self._hello)
        app.router.add_get("/v2/{name:.+}/manifests/{reference}", self._manifest)
        app.router.add_get("/v2/{name:.+}/blobs/{digest}", self._blob)
        return app

    async def _hello(self, _: web.Request) -> web.Response:
        return web.json_response({}, headers={"Docker-Distribution-API-Version": "registry/2.0"})

    async def _manifest(self, request: web.Request) -> web.Response:
        if request.match_info["reference"] == "missing":
            error = {"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}
            return web.json_response({"errors": [error]}, status=404)
        headers = {"Docker-Content-Digest": digest_of(self.manifest)}
        return web.Response(body=self.manifest, content_type=MANIFEST, headers=headers)

    async def _blob(self, request: web.Request) -> web.StreamResponse:
        blob = self.blobs[request.match_info["digest"]]
        response = web.StreamResponse(headers={"Content-Length": str(len(blob))})
        await response.prepare(request)
        try:
            await response.write(blob[: len(blob) // 2])
            if len(blob) > 1 << 20:
                self.halfway.set()
                await self.go_on.wait()
            await response.write(blob[len(blob) // 2 :])
        except (ConnectionError, asyncio.CancelledError):
            self.left.set()
            raise
        return response


def digest_of(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def described(blob: bytes, kind: str) -> dict[str, Any]:
    return {"mediaType": kind, "size": len(blob), "digest": digest_of(blob)}


@asynccontextmanager
async def serving(registry: Registry) -> AsyncIterator[str]:
    """Its address."""
    runner = web.AppRunner(registry.app(), handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        registry.go_on.set()
        await runner.cleanup()


@pytest.fixture
async def client(engine: EngineClient) -> AsyncIterator[Engine]:
    opened = Engine(engine.address)
    yield opened
    await opened.close()


@pytest.fixture
def name(engine: EngineClient) -> Iterator[str]:
    """Of an image that is removed afterwards."""
    own = f"test-{secrets.token_hex(4)}"
    yield own
    for image in engine.ask("GET", "/images/json"):
        for tag in image.get("RepoTags") or ():
            if f"/{own}:" in tag:
                engine.ask("DELETE", f"/images/{tag}?force=true")


async def test_how_far_it_is(client: Engine, name: str) -> None:
    registry = Registry()
    reports: list[Progress] = []
    begun = asyncio.Event()

    def on_progress(progress: Progress) -> None:
        reports.append(progress)
        begun.set()

    async with serving(registry) as address:
        image = f"{address}/org/{name}:latest"
        pull = spawn(ensure_image(client, image, on_progress), name="pull")
        async with asyncio.timeout(20):
            await begun.wait()
            assert not pull.done()
            registry.go_on.set()
            assert await pull == await image_id(client, image)
    size = max(len(blob) for blob in registry.blobs.values())
    assert {one.total for one in reports} == {size}
    assert [one.have for one in reports] == sorted(one.have for one in reports)
    assert reports[-1].have == size


async def test_nobody_waits_for_it_any_more(client: Engine, name: str) -> None:
    for _ in range(TRIES):
        if await hangs_up(client, name):
            return
    pytest.fail(f"the engine went on with {TRIES} pulls that nobody waited for")


async def hangs_up(client: Engine, name: str) -> bool:
    """Whether the engine leaves the registry when the pull is cancelled."""
    registry = Registry()
    begun = asyncio.Event()
    async with serving(registry) as address:
        image = f"{address}/org/{name}:latest"
        pull = spawn(ensure_image(client, image, lambda _: begun.set()), name="pull")
        async with asyncio.timeout(20):
            await begun.wait()
            await registry.halfway.wait()  # progress is told before the engine asks for the layer, too
            pull.cancel()
            with suppress(asyncio.CancelledError):
                await pull
        try:
            async with asyncio.timeout(10):
                await registry.left.wait()
        except TimeoutError:
            return False
        assert await image_id(client, image) is None
    return True


async def test_the_registry_has_it_not(client: Engine, name: str) -> None:
    async with serving(Registry()) as address:
        with pytest.raises(
            EngineError, match=rf"the image {address}/org/{name}:missing is not there.*manifest"
        ):
            await ensure_image(client, f"{address}/org/{name}:missing", lambda _: None)
