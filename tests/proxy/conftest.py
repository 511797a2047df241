"""Nothing that the front door does may block the event loop."""

from collections.abc import Iterator

import pytest
from blockbuster import blockbuster_ctx


@pytest.fixture(autouse=True)
def no_blocking_calls() -> Iterator[None]:
    """A blocking call of ours in a running loop is an error."""
    with blockbuster_ctx(["proxy", "actors"]):
        yield
