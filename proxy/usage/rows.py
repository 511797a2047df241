"""A request's row in the ledger, and the table of rows."""

import time
from collections.abc import Mapping
from typing import Protocol, TypeAlias

LONGEST = 200
"""Most characters of a model's name or an action, which a client may choose."""
MOST_TOKENS = 10**12
"""A model server may report any number; SQLite's end at 2**63."""

TABLE = "requests"
COLUMNS = {
    "number": "INTEGER PRIMARY KEY",
    "id": "TEXT NOT NULL",
    "at": "REAL NOT NULL",
    "key": "TEXT",
    "model": "TEXT",
    "agents": "TEXT",
    "agent": "TEXT",
    "action": "TEXT",
    "endpoint": "TEXT NOT NULL",
    "prompt_tokens": "INTEGER",
    "cached_tokens": "INTEGER",
    "completion_tokens": "INTEGER",
    "queued_seconds": "REAL NOT NULL",
    "fetched_seconds": "REAL NOT NULL",
    "loaded_seconds": "REAL NOT NULL",
    "first_token_seconds": "REAL",
    "seconds": "REAL NOT NULL",
    "status": "INTEGER NOT NULL",
    "outcome": "TEXT NOT NULL",
    "place": "TEXT",
}
"""The columns with their types. `number` gives the order in which requests ended.

`agents` are the names of the request's agents, with commas. `agent` is the one whose call of a model it is;
such a call is no request of a client. `action` is what an operator did: method, path and query.
"""
SCHEMA = (
    f"CREATE TABLE IF NOT EXISTS {TABLE} ({', '.join(f'{name} {kind}' for name, kind in COLUMNS.items())})",
    f"CREATE INDEX IF NOT EXISTS by_time ON {TABLE} (at)",
)

Value: TypeAlias = str | int | float | None
Row: TypeAlias = tuple[Value, ...]
"""The values of a row, in the order of `COLUMNS`."""


class Recordable(Protocol):
    """A finished request, as the ledger sees it. Times are seconds; `started` is Unix time."""

    @property
    def recorded(self) -> bool:
        """Whether it has a row."""

    @property
    def request_id(self) -> str:
        """Its id, which a client may have chosen."""

    @property
    def started(self) -> float:
        """When it began, in Unix time."""

    @property
    def started_at(self) -> float:
        """The same by the monotonic clock."""

    @property
    def client(self) -> str:
        """The name of its key; empty without a key."""

    @property
    def model(self) -> str | None:
        """The model."""

    @property
    def agents(self) -> tuple[str, ...]:
        """Its agents."""

    @property
    def agent(self) -> str | None:
        """The agent whose call it is."""

    @property
    def action(self) -> str | None:
        """What an operator did."""

    @property
    def endpoint(self) -> str:
        """The route's template."""

    @property
    def tokens(self) -> Mapping[str, int]:
        """The tokens of each kind, as far as known."""

    @property
    def queued(self) -> float:
        """Seconds in the queue."""

    @property
    def fetched(self) -> float:
        """Seconds in a download."""

    @property
    def loaded(self) -> float:
        """Seconds in a load."""

    @property
    def first_byte_at(self) -> float | None:
        """When the answer began, by the monotonic clock."""

    @property
    def status(self) -> int:
        """The answer's status."""

    @property
    def outcome(self) -> str:
        """What became of it."""

    @property
    def place(self) -> str | None:
        """Where the model ran."""


def row_of(number: int, request: Recordable) -> Row:
    """Make a request's row. This is in the path of each request, so it must be fast."""
    began, first = request.started_at, request.first_byte_at
    tokens, model, action, agents = request.tokens.get, request.model, request.action, request.agents
    return (
        number,
        request.request_id,
        request.started,
        request.client or None,
        model and model[:LONGEST],
        ",".join(agents) if agents else None,
        request.agent,
        action and action[:LONGEST],
        request.endpoint,
        tokens("prompt_tokens"),
        tokens("cached_tokens"),
        tokens("completion_tokens"),
        request.queued,
        request.fetched,
        request.loaded,
        None if first is None else first - began,
        time.monotonic() - began,
        request.status,
        request.outcome,
        request.place,
    )


def action_row(at: float, request_id: str, action: str) -> Row:
    """Make the row of something that was done without a request, by a command on the gateway's machine."""
    known: dict[str, Value] = {
        "number": int(at * 1e6),
        "id": request_id,
        "at": at,
        "action": action[:LONGEST],
        "endpoint": "command",
        "queued_seconds": 0.0,
        "fetched_seconds": 0.0,
        "loaded_seconds": 0.0,
        "seconds": 0.0,
        "status": 200,
        "outcome": "ok",
    }
    return tuple(known.get(name) for name in COLUMNS)


def storable(row: Row) -> Row:
    """Return the row with what SQLite cannot keep replaced: half characters and too large numbers."""
    return tuple(map(_storable, row))


def _storable(value: Value) -> Value:
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    return min(value, MOST_TOKENS) if isinstance(value, int) and value > 2**62 else value
