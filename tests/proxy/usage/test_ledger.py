"""Nothing is lost from the ledger but the last second, under any schedule of failures of its file."""

import asyncio
import sqlite3
from collections.abc import Sequence
from typing import Literal, get_args

import structlog
from hypothesis import given
from hypothesis import strategies as st

from proxy.usage.ledger import BATCH, DAY, Ledger
from proxy.usage.rows import Row
from tests.proxy.usage.requests import request

MOST = 6
Fault = Literal["none", "before", "after", "folder"]


class FakeFile:
    """Keeps rows in memory, and fails as it is told: before or after it has written."""

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self.fault: Fault = "none"
        self.oldest = 0.0
        self.is_open = True

    @property
    def ids(self) -> list[object]:
        return [self.rows[number][1] for number in sorted(self.rows)]

    def write(self, rows: Sequence[Row], oldest: float) -> int:
        if self.fault == "before":
            raise sqlite3.OperationalError("database is locked")
        if self.fault == "folder":
            raise PermissionError("no")
        for number, *values in rows:
            assert isinstance(number, int)
            self.rows.setdefault(number, (number, *values))
        self.oldest = oldest
        if self.fault == "after":
            raise sqlite3.OperationalError("disk I/O error")
        return max(self.rows, default=0)

    def close(self) -> None:
        self.is_open = False


class Clock:
    now = 1e9

    def __call__(self) -> float:
        return self.now


Step = st.one_of(
    st.integers(min_value=1, max_value=9).map(lambda count: ("requests", count)),
    st.sampled_from(get_args(Fault)).map(lambda fault: ("fault", fault)),
    st.sampled_from([("save", 0), ("kill", 0), ("cancel", 0)]),
    st.integers(min_value=-10, max_value=10).map(lambda seconds: ("clock", seconds)),
)


@given(st.lists(Step, max_size=40))
def test_only_what_was_not_saved_is_lost(steps: list[tuple[str, object]]) -> None:
    async def go() -> None:
        file, clock, count = FakeFile(), Clock(), 0
        ledger = Ledger(file, 90, most=MOST, clock=clock)
        await ledger.start()
        expected: list[str] = []
        safe = 0
        for kind, value in steps:
            match kind, value:
                case "requests", int(many):
                    for _ in range(many):
                        count += 1
                        dropped, waiting = ledger.dropped, ledger.waiting
                        ledger.account(request(request_id=str(count)))
                        if ledger.dropped == dropped:
                            expected.append(str(count))
                        else:
                            assert waiting == MOST, "a request is dropped only if there is no room"
                case "fault", fault:
                    file.fault = fault  # type: ignore[assignment]
                case "clock", int(seconds):
                    clock.now += seconds
                case "save", _:
                    saved = await ledger.save()
                    assert saved == (file.fault == "none" or not ledger.waiting)
                    assert saved == (ledger.waiting == 0)
                    safe = len(expected) if saved else safe
                case "cancel", _:
                    task = asyncio.ensure_future(ledger.save())
                    await asyncio.sleep(0)
                    task.cancel()
                    await asyncio.wait([task])
                case _:
                    kept = file.ids
                    assert kept == expected[: len(kept)]
                    assert len(kept) >= safe, "what was saved is there"
                    expected = [str(one) for one in kept]
                    ledger = Ledger(file, 90, most=MOST, clock=clock)
                    await ledger.start()
        file.fault = "none"
        await ledger.close()
        assert file.ids == expected
        assert not file.is_open

    asyncio.run(go())


async def test_a_failure_is_told_once_and_so_is_its_end() -> None:
    file = FakeFile()
    ledger = Ledger(file, 90, most=2)
    with structlog.testing.capture_logs() as logs:
        file.fault = "before"
        for _ in range(4):
            ledger.account(request())
            assert not await ledger.save()
        file.fault = "none"
        assert await ledger.save()
        assert await ledger.save()
    assert [line["event"] for line in logs] == [
        "usage cannot be recorded; it waits in memory",
        "usage is recorded again",
    ]
    assert logs[0]["reason"] == "database is locked"
    assert logs[1]["dropped"] == ledger.dropped == 2
    assert len(file.rows) == 2


async def test_more_than_one_batch_is_written() -> None:
    file = FakeFile()
    ledger = Ledger(file, 90)
    for _ in range(BATCH + 1):
        ledger.account(request())
    assert await ledger.save()
    assert len(file.rows) == BATCH + 1


async def test_what_only_reads_has_no_row() -> None:
    ledger = Ledger(FakeFile(), 90)
    ledger.account(request(recorded=False))
    assert not ledger.waiting


async def test_old_rows_are_deleted() -> None:
    file = FakeFile()
    ledger = Ledger(file, 2, clock=lambda: 10 * DAY)
    await ledger.start()
    assert file.oldest == 8 * DAY


async def test_without_days_nothing_is_recorded_and_nothing_deleted() -> None:
    file = FakeFile()
    ledger = Ledger(file, 0)
    await ledger.start()
    for keep_days in (0, 1, 0):
        ledger.keep_days = keep_days
        ledger.account(request())
    assert await ledger.save()
    assert len(file.rows) == 1
    assert file.oldest == 0


async def test_what_a_failing_file_loses_at_the_end_is_told() -> None:
    file = FakeFile()
    file.fault = "folder"
    ledger = Ledger(file, 90)
    ledger.account(request())
    with structlog.testing.capture_logs() as logs:
        await ledger.close()
    assert logs[-1]["event"] == "the usage of the last requests is lost"
    assert logs[-1]["requests"] == 1
    assert not file.is_open
