"""Containers of a test. Nothing of them may be left, and nothing may block the event loop."""

import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from blockbuster import blockbuster_ctx

from actors.demo.model import demo_path, write_demo
from actors.servers.docker.containers import Containers
from actors.servers.docker.engine import Engine
from actors.servers.docker.spec import GATEWAY, PORT, ContainerSpec, Mount, Published
from actors.servers.health import answers
from tests.engines import EngineClient

Open = Callable[..., AbstractAsyncContextManager[Containers]]

ANY_PORT = Published("127.0.0.1", 0)


@pytest.fixture(autouse=True)
def no_blocking_calls() -> Iterator[None]:
    """A blocking call of ours in a running loop is an error."""
    with blockbuster_ctx(["proxy", "actors"]):
        yield


@asynccontextmanager
async def open_containers(address: str, name: str) -> AsyncIterator[Containers]:
    """The containers of a gateway with this name."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
        containers = Containers(
            Engine(address),
            name=name,
            identity="nobody",
            is_dead=lambda identity: identity.startswith("dead "),
            answers=lambda host, port: answers(session, host, port),
            on_left_over=lambda: None,
        )
        containers.start()
        try:
            yield containers
        finally:
            await containers.close()


@pytest.fixture
def name(engine: EngineClient) -> Iterator[str]:
    """Of a gateway. When its test is over it must have no containers."""
    own = f"test-{secrets.token_hex(6)}"
    yield own
    left = engine.containers(f"{GATEWAY}={own}")
    for container in left:
        engine.remove(container["Id"])
    assert not left


@pytest.fixture(scope="session")
def demo(cache: str) -> Path:
    """The built-in model's file."""
    path = demo_path("demo", Path(cache) / "llama-smart-proxy")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_demo(path, embedding=False)
    return path


@pytest.fixture
def spec(image: str, demo: Path) -> ContainerSpec:
    """A server of the demo model."""
    flags = ["--model", "/models/demo.gguf", "--host", "0.0.0.0", "--port", str(PORT), "--threads", "1"]
    return ContainerSpec(
        model="org/Demo model:1",
        image=image,
        image_id="sha256:of-the-test",
        command=(*flags, "--ctx-size", "1024"),
        mounts=(Mount(str(demo), "/models/demo.gguf"),),
    )
