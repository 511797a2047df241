"""Reads the ledger's file: sums, and pages of rows. All functions block.

Each opens the file read-only, so that the gateway can write meanwhile, and any process can read, whether a
gateway runs or not.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from proxy.usage.rows import COLUMNS, TABLE

Kind = Literal["request", "call", "action"]
Group = Literal["key", "model", "day", "endpoint", "outcome", "agent"]
GROUPS: tuple[Group, ...] = get_args(Group)
DEFAULT_GROUPS: tuple[Group, ...] = ("key", "model", "day")
MOST_ROWS = 1000
"""Most rows of a page."""

_KINDS: dict[Kind, str] = {
    "request": "agent IS NULL AND action IS NULL",
    "call": "agent IS NOT NULL",
    "action": "action IS NOT NULL",
}
_SUMS = """
    count(*) AS requests,
    coalesce(sum(prompt_tokens), 0) AS prompt_tokens,
    coalesce(sum(cached_tokens), 0) AS cached_tokens,
    coalesce(sum(completion_tokens), 0) AS completion_tokens,
    sum(outcome IN ('refused', 'failed')) AS errors,
    total(seconds) AS seconds
"""


class ReportError(Exception):
    """The ledger's file cannot be read. The message names it and says why."""


class Sums(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What requests with the same key, model and so on took together.

    Only what the report is by is there; null: requests without a key, without a model. `day` is in UTC.
    `agent` names the agents that called models themselves.
    """

    key: str | msgspec.UnsetType | None = msgspec.UNSET
    model: str | msgspec.UnsetType | None = msgspec.UNSET
    day: str | msgspec.UnsetType = msgspec.UNSET
    endpoint: str | msgspec.UnsetType = msgspec.UNSET
    outcome: str | msgspec.UnsetType = msgspec.UNSET
    agent: str | msgspec.UnsetType | None = msgspec.UNSET
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    errors: int
    seconds: float


class Activity(msgspec.Struct, frozen=True, kw_only=True):
    """A finished request. `at` is when it began, in Unix time; null: unknown, or none.

    `capture`: there is a capture of it.
    """

    number: int
    id: str
    at: float
    key: str | None
    model: str | None
    agents: list[str]
    agent: str | None
    action: str | None
    endpoint: str
    prompt_tokens: int | None
    cached_tokens: int | None
    completion_tokens: int | None
    queued_seconds: float
    fetched_seconds: float
    loaded_seconds: float
    first_token_seconds: float | None
    seconds: float
    status: int
    outcome: str
    place: str | None
    capture: bool = False


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which rows count; None: all. `since` and `until` are Unix times, and `until` is not included.

    `key` and `model`: an empty text means requests without one.
    """

    kind: Kind | None = "request"
    key: str | None = None
    model: str | None = None
    outcome: str | None = None
    since: float | None = None
    until: float | None = None

    @property
    def condition(self) -> tuple[str, list[object]]:
        """The SQL that follows WHERE, and its values."""
        terms = ["1" if self.kind is None else _KINDS[self.kind]]
        values: list[object] = []
        for term, value in (
            ("coalesce(key, '') = ?", self.key),
            ("coalesce(model, '') = ?", self.model),
            ("outcome = ?", self.outcome),
            ("at >= ?", self.since),
            ("at < ?", self.until),
        ):
            if value is not None:
                terms.append(term)
                values.append(value)
        return " AND ".join(terms), values


def parse_groups(text: str) -> tuple[Group, ...]:
    """Return the facts that a text names, with commas between them. Raises `ValueError`."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    found = tuple(dict.fromkeys(group for name in names for group in GROUPS if group == name))
    if not set(names) <= set(found):
        raise ValueError(f"expected some of {', '.join(GROUPS)}, got {text[:100]!r}")
    return found


def sums(path: Path, by: tuple[Group, ...], which: Filter) -> list[Sums]:
    """Return what requests took together, by the given facts of them. Raises `ReportError`.

    Calls of models by agents count only in reports by agent.
    """
    if "agent" in by and which.kind == "request":
        which = msgspec.structs.replace(which, kind=None)
    where, values = which.condition
    if which.kind is None:
        where += " AND action IS NULL"
    columns = [f"date(at, 'unixepoch') AS {name}" if name == "day" else name for name in by]
    grouped = f" GROUP BY {', '.join(by)} ORDER BY {', '.join(by)}" if by else ""
    query = f"SELECT {', '.join([*columns, _SUMS])} FROM {TABLE} WHERE {where}{grouped}"
    found = _read(path, query, values)
    return [msgspec.convert(row, Sums) for row in found if row["requests"]]


def activity(path: Path, which: Filter, *, limit: int, before: int | None = None) -> list[Activity]:
    """Return the newest rows, the newest first, of those whose number is below `before`.

    Raises `ReportError`.
    """
    where, values = which.condition
    if before is not None:
        where, values = f"{where} AND number < ?", [*values, before]
    query = f"SELECT {', '.join(COLUMNS)} FROM {TABLE} WHERE {where} ORDER BY number DESC LIMIT ?"
    rows = _read(path, query, [*values, limit])
    return [
        msgspec.convert({**row, "agents": row["agents"].split(",") if row["agents"] else []}, Activity)
        for row in rows
    ]


def _read(path: Path, query: str, values: list[object]) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        with _opened(path) as database:
            found = database.execute(query, values)
            names = [column[0] for column in found.description]
            return [dict(zip(names, row, strict=True)) for row in found]
    except (sqlite3.Error, OSError) as error:
        raise ReportError(f"the ledger of usage in {path} cannot be read: {error}") from None


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    try:
        yield database
    finally:
        database.close()
