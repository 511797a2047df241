"""One gateway for the whole suite, a model of each kind on each backend, and what is known to fail."""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from fnmatch import fnmatchcase
from typing import NamedTuple

import pytest

from tests.conformance.known import KNOWN
from tests.conformance.table import Results
from tests.conftest import DEMO, EMBED
from tests.gateway import Gateway, running
from tests.ollama_daemons import real_daemon, stand_in_daemon

STAND_IN = ("--model", "tiny", "--model", "tiny-embed", "--thinking-model", "tiny-thinker")
HERE = "tests/conformance/"


class Backend(NamedTuple):
    """What serves the models, and their names: one that talks, one that reasons before, one that embeds."""

    name: str
    talks: str
    reasons: str
    embeds: str


LLAMA_CPP = Backend("llama.cpp", "demo", "demo-thinker", "demo-embed")
OLLAMA = Backend("Ollama", "tiny", "tiny-thinker", "tiny-embed")
REAL_OLLAMA = Backend("real Ollama", "real-tiny", "real-tiny", "real-tiny-embed")
HAS_REAL_OLLAMA = bool(os.environ.get("OLLAMA_HOST") or shutil.which("ollama"))
BACKENDS = [LLAMA_CPP, OLLAMA] + [REAL_OLLAMA] * HAS_REAL_OLLAMA


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory, cache: str, real_server: None) -> Iterator[Gateway]:
    """With all of the models."""
    folder = tmp_path_factory.mktemp("conformance")
    models = {"demo": DEMO, "demo-short": {**DEMO, "ctx_size": 1024, "aliases": []}, "demo-embed": EMBED}
    with ExitStack() as stack:
        daemons = {"stand-in": stack.enter_context(stand_in_daemon(*STAND_IN))}
        if HAS_REAL_OLLAMA:
            made = {REAL_OLLAMA.talks: False, REAL_OLLAMA.embeds: True}
            daemons["real"] = stack.enter_context(real_daemon(folder, made))
        config = {
            "llama_cpp": {"models": models},
            "ollama": {"daemons": daemons},
            "server_pool": {"size": 8},
        }
        started = stack.enter_context(running(config, folder, XDG_CACHE_HOME=cache))
        started.wait_for("Ollama daemon answers")
        yield started


@pytest.fixture(params=BACKENDS, ids=lambda backend: backend.name)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each of them in turn."""
    chosen: Backend = request.param
    return chosen


@pytest.fixture(params=[False, True], ids=["whole", "streamed"])
def streamed(request: pytest.FixtureRequest) -> bool:
    """Whether the answer comes in parts."""
    return bool(request.param)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where a run keeps its table."""
    parser.addoption("--conformance-table", metavar="FILE", help="write which feature passes where")


def pytest_configure(config: pytest.Config) -> None:
    """A test of the suite says what it tries: `feature("structured output")`."""
    config.addinivalue_line("markers", "feature(name): the feature of an API that a conformance test tries")
    config.pluginmanager.register(Results(HERE), "conformance-results")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is known to fail is expected to: when it passes, its line in known.py must go."""
    for item in items:
        if item.nodeid.startswith(HERE):
            name = item.nodeid.removeprefix(HERE)
            for pattern, reason in KNOWN.items():
                if fnmatchcase(name, pattern.replace("[", "[[]")):
                    item.add_marker(pytest.mark.xfail(reason=reason, strict=False))
