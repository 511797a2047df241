"""Fixtures that all the tests share."""

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NoReturn

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.effort import examples
from tests.engines import EngineClient, default_address
from tests.gateway import Gateway, running

# A busy machine is no fault.
hypothesis.settings.register_profile("everyday", deadline=None, max_examples=examples(100))
hypothesis.settings.load_profile("everyday")

Start = Callable[..., Gateway]

SLOW = ("tests/e2e/", "tests/deploy/", "tests/actors/servers/docker/", "tests/actors/scheduler/test_planner_")
"""Where the tests are that take the longest, or that many others wait for."""

ENGINE = (
    "tests/e2e/test_docker.py",
    "tests/actors/servers/docker/test_containers.py",
    "tests/actors/servers/docker/test_images",
)
"""Where the tests with a real Docker Engine are: they count what it has."""

CONFORMANCE = "tests/conformance/"
"""Where the tests are that share one gateway for all their files."""

DEMO: dict[str, Any] = {
    "path": "builtin:demo",
    "ctx_size": 16384,
    "aliases": ["org/demo:latest"],
    # Two threads spin while they wait for each other, which on busy cores costs more than it brings.
    "arguments": ["--threads", "1"],
}
EMBED: dict[str, Any] = {"path": "builtin:demo-embed", "embeddings": True}


class InGroups(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """A parallel run: one process has all tests of a file, and one those with a real Docker Engine.

    The groups of xdist's own `loadgroup` are lost with pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        if file.startswith(ENGINE):
            return "engine"
        if file.startswith(CONFORMANCE):
            return "conformance"
        return nodeid if file == "tests/e2e/test_hung.py" else file  # each of those waits half a minute


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> InGroups:
    """Say which tests of a parallel run go one after the other."""
    return InGroups(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In a parallel run the longest come first, so that none is alone at the end."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: not item.nodeid.startswith(SLOW))


@pytest.fixture(scope="session")
def real_server() -> None:
    """The test needs a real llama.cpp server."""
    if importlib.util.find_spec("xllamacpp") is None:
        reason = "xllamacpp is not installed, so there is no real llama.cpp server"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


def missing(reason: str) -> NoReturn:
    """Skip, but in CI fail: it has started what it could, and says in CI_CANNOT if it could not."""
    cannot = os.environ.get("CI_CANNOT")
    if os.environ.get("CI") and not cannot:
        pytest.fail(reason)
    pytest.skip(f"{reason} ({cannot})" if cannot else reason)


@pytest.fixture(scope="session")
def engine() -> EngineClient:
    """The test needs a real Docker Engine."""
    client = EngineClient(default_address())
    if not client.answers():
        reason = f"no Docker Engine answers at {client.address}"
        missing(f"{reason}; apt-get install docker.io, and start dockerd")
    return client


@pytest.fixture(scope="session")
def image(engine: EngineClient, real_server: None) -> str:
    """An image with a real llama.cpp server."""
    from tests.docker_image import ensure

    return ensure(engine)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A cache folder, in which the built-in models are written once for all the tests."""
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, cache: str, real_server: None) -> Iterator[Gateway]:
    """A gateway with the demo models, shared by the tests of a module."""
    models = {"demo": DEMO, "demo-embed": EMBED}
    config = {"llama_cpp": {"models": models}, "server_pool": {"size": 4}}
    with running(config, tmp_path_factory.mktemp("gateway"), XDG_CACHE_HOME=cache) as shared:
        yield shared


@pytest.fixture
def start(tmp_path: Path, cache: str) -> Iterator[Start]:
    """Starts gateways of the test's own: `start(models, server_pool=..., server=...)`."""
    contexts: list[AbstractContextManager[Gateway]] = []

    def begin(models: dict[str, Any], **sections: Any) -> Gateway:
        folder = tmp_path / str(len(contexts))
        folder.mkdir()
        context = running({"llama_cpp": {"models": models}, **sections}, folder, XDG_CACHE_HOME=cache)
        contexts.append(context)
        return context.__enter__()

    yield begin
    for context in reversed(contexts):
        context.__exit__(None, None, None)
