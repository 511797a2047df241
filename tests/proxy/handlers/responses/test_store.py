"""Responses that are kept: for how long, for whom, and if the disk does not want them."""

import stat
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog

from proxy.handlers.responses.store import MEMORY, REMEMBERED, Kept, ResponseStore


def kept(number: int = 1, owner: str | None = None, age: float = 0, **fields: Any) -> Kept:
    return Kept(f"resp_{number}", owner, time.time() - age, b'{"n":%d}' % number, **fields)


@asynccontextmanager
async def opened(path: Path, seconds: float = 60) -> AsyncIterator[ResponseStore]:
    store = ResponseStore(path, seconds)
    yield store
    await store.close()


async def test_what_is_kept_is_found_at_once_and_in_the_next_life(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "responses.sqlite3"
    async with opened(path) as store:
        store.keep(kept(1, input=b'[{"a":1}]'))
        found = await store.find("resp_1", None)
        assert found is not None
        assert (found.fields, found.items) == ({"n": 1}, [{"a": 1}])
        assert await store.find("resp_2", None) is None
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}
    async with opened(path) as store:
        assert await store.find("resp_1", None) == found


async def test_the_last_write_counts(tmp_path: Path) -> None:
    async with opened(tmp_path / "r") as store:
        for number in range(20):
            store.keep(Kept("resp_1", None, time.time(), b"%d" % number))
    async with opened(tmp_path / "r") as store:
        found = await store.find("resp_1", None)
        assert found is not None
        assert found.response == b"19"


@pytest.mark.parametrize("seconds", [60, 0])
async def test_nobody_else_gets_it(tmp_path: Path, seconds: float) -> None:
    async with opened(tmp_path / "r", seconds) as store:
        store.keep(kept(1, "me"))
        assert await store.find("resp_1", "me") is not None
        assert await store.find("resp_1", "you") is None
        assert await store.find("resp_1", None) is None


@pytest.mark.parametrize(("seconds", "limit"), [(60, 60), (0, REMEMBERED)])
async def test_its_time_is_over(tmp_path: Path, seconds: float, limit: float) -> None:
    async with opened(tmp_path / "r", seconds) as store:
        store.keep(kept(1, age=limit - 30))
        store.keep(kept(2, age=limit + 1))
        assert await store.find("resp_1", None) is not None
        assert await store.find("resp_2", None) is None


@pytest.mark.parametrize("how", ["kept", "started"])
async def test_old_ones_leave_the_file(tmp_path: Path, how: str) -> None:
    """With the next one that is kept, or with the next start."""
    async with opened(tmp_path / "r", 1e6) as store:
        store.keep(kept(1, age=100))
        store.keep(kept(3))
    async with opened(tmp_path / "r", 50) as store:
        if how == "kept":
            store.keep(kept(2))
        else:
            await store.start()
    async with opened(tmp_path / "r", 1e6) as store:
        assert await store.find("resp_1", None) is None
        assert await store.find("resp_3", None) is not None


async def test_deleted(tmp_path: Path) -> None:
    async with opened(tmp_path / "r") as store:
        store.keep(kept())
        await store.delete("resp_1")
        assert await store.find("resp_1", None) is None
    async with opened(tmp_path / "r") as store:
        assert await store.find("resp_1", None) is None


async def test_memory_is_bounded(tmp_path: Path) -> None:
    async with opened(tmp_path / "r", 0) as store:
        large = b" " * (MEMORY // 4)
        for number in range(10):
            store.keep(kept(number, input=large))
        found = [await store.find(f"resp_{number}", None) for number in range(10)]
        assert [one is not None for one in found] == [False] * 7 + [True] * 3
        store.keep(kept(10, input=b" " * (MEMORY + 1)))
        assert await store.find("resp_10", None) is not None
    assert not (tmp_path / "r").exists()


async def test_a_disk_that_does_not_take_it_costs_no_answer(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    with structlog.testing.capture_logs() as logs:
        async with opened(tmp_path / "r") as store:
            await store.start()
            store.keep(kept())
            assert await store.find("resp_1", None) is not None
    assert [entry["event"] for entry in logs] == ["responses cannot be kept", "a response cannot be kept"]


async def test_a_damaged_file_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "r").write_bytes(b"no database" * 999)
    async with opened(tmp_path / "r") as store:
        store.keep(kept())
    assert len(list(tmp_path.glob("r.broken-*"))) == 1
    async with opened(tmp_path / "r") as store:
        assert await store.find("resp_1", None) is not None
