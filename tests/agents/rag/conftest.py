"""Nothing of retrieval may block the event loop; and an index of each test's own."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx

from agents.rag.store.index import Index


@pytest.fixture(autouse=True)
def no_blocking_calls() -> Iterator[None]:
    """A blocking call of ours in a running loop is an error."""
    with blockbuster_ctx(["agents"]):
        yield


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    """An empty one."""
    with closing(Index(tmp_path / "index.sqlite3")) as opened:
        yield opened
