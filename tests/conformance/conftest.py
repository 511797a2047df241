"""One gateway for the whole suite, a model of each kind on each backend, and what is known to fail."""

from collections.abc import Iterator
from fnmatch import fnmatchcase

import pytest

from tests.conformance.known import KNOWN
from tests.conformance.serving import BACKENDS, Backend, serving
from tests.conformance.table import Results
from tests.gateway import Gateway

HERE = "tests/conformance/"


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory, cache: str, real_server: None) -> Iterator[Gateway]:
    """With all of the models."""
    with serving(tmp_path_factory.mktemp("conformance"), cache) as started:
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
    config.addinivalue_line(
        "markers", "feature(name, client): what a conformance test tries; the client is else its module's"
    )
    config.pluginmanager.register(Results(HERE), "conformance-results")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is known to fail is expected to: when it passes, its line in known.py must go."""
    for item in items:
        if item.nodeid.startswith(HERE):
            name = item.nodeid.removeprefix(HERE)
            for pattern, reason in KNOWN.items():
                if fnmatchcase(name, pattern.replace("[", "[[]")):
                    item.add_marker(pytest.mark.xfail(reason=reason, strict=True))
