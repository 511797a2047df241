"""Nothing that agents do may block the event loop, and what they log is at hand."""

from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from blockbuster import blockbuster_ctx


@pytest.fixture(autouse=True)
def no_blocking_calls() -> Iterator[None]:
    """A blocking call of ours in a running loop is an error."""
    with blockbuster_ctx(["agents", "actors"]):
        yield


@pytest.fixture(autouse=True)
def log() -> Iterator[list[Any]]:
    """The lines of the log."""
    with structlog.testing.capture_logs() as lines:
        yield lines
