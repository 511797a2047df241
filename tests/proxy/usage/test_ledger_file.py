"""The ledger's file: what it keeps, and what is done to it from outside."""

import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from proxy.usage.ledger_file import PURGED, LedgerFile
from proxy.usage.rows import MOST_TOKENS, Row, row_of
from tests.proxy.usage.requests import request


def row(number: int, **facts: Any) -> Row:
    return row_of(number, request(**facts))


def read(path: Path, what: str = "number") -> list[Any]:
    with closing(sqlite3.connect(path)) as database:
        return [value for (value,) in database.execute(f"SELECT {what} FROM requests ORDER BY number")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "usage"


@pytest.fixture
def file(path: Path) -> Iterator[LedgerFile]:
    with closing(LedgerFile(path)) as file:
        yield file


def test_a_row_is_written_once(file: LedgerFile, path: Path) -> None:
    assert file.write([], 0) == 0
    assert file.write([row(3), row(5)], 0) == 5
    assert file.write([row(5), row(7)], 0) == 7, "it seemed to fail, and had not"
    assert read(path) == [3, 5, 7]


def test_nobody_else_can_read_it(file: LedgerFile, path: Path) -> None:
    file.write([row(1)], 0)
    modes = {stat.S_IMODE(one.stat().st_mode) for one in path.parent.iterdir()}
    assert modes == {0o600}


def test_old_rows_go(file: LedgerFile, path: Path) -> None:
    file.write([row(number, started=float(number)) for number in range(1, 6)], 0)
    file.write([], 4)
    assert read(path) == [4, 5]
    file.write([row(number + 10, started=1.0) for number in range(PURGED + 1)], 0)
    file.write([], 4)
    assert len(read(path)) == 3, "so many at a time"


def test_what_clients_and_servers_send_can_be_kept(file: LedgerFile, path: Path) -> None:
    tokens = {"prompt_tokens": 10**30, "cached_tokens": -1, "completion_tokens": 2**63 - 1}
    odd = row(1, model="half \ud800 a character\0", tokens=tokens, action="POST /admin/\udcff")
    file.write([odd, row(2, model="x" * 10_000)], 0)
    assert read(path, "prompt_tokens") == [MOST_TOKENS, None]
    assert read(path, "cached_tokens") == [-1, None]
    assert read(path, "model") == ["half ? a character\0", "x" * 200]


def test_a_deleted_file_is_begun_anew(file: LedgerFile, path: Path) -> None:
    file.write([row(1)], 0)
    path.unlink()
    file.write([row(2)], 0)
    assert read(path) == [2]


def test_a_damaged_file_is_set_aside(file: LedgerFile, path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"garbage" * 1000)
    file.write([row(1)], 0)
    assert read(path) == [1]
    assert list(path.parent.glob("usage.broken-*"))


def test_a_file_of_another_schema_is_set_aside(file: LedgerFile, path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE requests (number INTEGER PRIMARY KEY, at REAL)")
    file.write([row(1)], 0)
    assert read(path) == [1]
