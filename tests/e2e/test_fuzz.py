"""What nobody means, by the hundreds: it is refused, in the right words, and nothing breaks."""

import itertools
from collections.abc import Iterator

import pytest

from tests.attack.fuzz_requests import crashes, fault_of, requests, target
from tests.gateway import Gateway

ONES = 400
"""Of each seed. `python -m tests.attack --only fuzz` sends more."""


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory, cache: str) -> Iterator[Gateway]:
    with target(tmp_path_factory.mktemp("fuzz"), XDG_CACHE_HOME=cache) as gateway:
        yield gateway


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_requests_that_nobody_means(attacked: Gateway, seed: int) -> None:
    port = int(attacked.url.rpartition(":")[2])
    faults = [
        f"{fault}\n    {request.data[:500]!r}"
        for request in itertools.islice(requests(seed), ONES)
        if (fault := fault_of(port, request)) is not None
    ]
    assert not faults, "\n".join(faults)
    assert not crashes(attacked)
    assert attacked.client.get("/health").status_code == 200
