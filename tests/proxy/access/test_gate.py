"""The gate: damage to its database, and what an admission costs."""

import asyncio
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from proxy.access.gate import ANSWER_TOKENS, Gate
from proxy.access.keys import Key, Rights, make_key
from proxy.access.limits import DAY
from proxy.access.store import KeyStore
from proxy.errors import ApiError
from proxy.exchange import Exchange

SECRET, OTHER = "a-secret-of-alice", "a-secret-of-bob-1"
ALICE = make_key("alice", SECRET, Rights(tokens_per_day=10_000))
GOOD = {"Authorization": f"Bearer {SECRET}"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    store = KeyStore(path)
    store.add(ALICE)
    store.close()
    return path


@pytest.fixture
def gate(path: Path) -> Iterator[Gate]:
    gate = Gate(KeyStore(path))
    gate.load()
    yield gate
    gate.close()


def refuses(gate: Gate, **headers: str) -> bool:
    try:
        gate.identify(headers)
    except ApiError as error:
        return error.status == 401
    return False


def saved_tokens(path: Path) -> dict[str, int]:
    """The tokens that are recorded as spent today."""
    with closing(KeyStore(path)) as store:
        return store.spent(int(time.time() // DAY))


def look(gate: Gate) -> None:
    """Let the gate look at its database once."""
    asyncio.run(gate.synchronise())


def served(gate: Gate, key: Key, tokens: int) -> None:
    """Admit and settle one request of so many tokens."""
    exchange = Exchange("POST", "/v1/chat/completions", "id", (gate.settle,))
    exchange.key, exchange.epoch, exchange.tokens = key, 1, {"completion_tokens": tokens}
    gate.admit(exchange, 100, 10)
    gate.settle(exchange)


def test_a_deleted_database_opens_nothing(gate: Gate, path: Path) -> None:
    path.unlink()
    with capture_logs() as lines:
        for _ in range(3):
            served(gate, ALICE, 5)  # its tokens are to be saved, which must not make an empty database
            look(gate)
            assert refuses(gate)
            assert gate.identify(GOOD) == ALICE
            assert not path.exists()
    assert [line["doing"] for line in lines] == ["read the keys", "save spent tokens"]
    assert {line["event"] for line in lines} == {"database of keys fails; the known keys stay"}
    assert "deleted" in lines[0]["reason"]
    store = KeyStore(path)
    store.add(make_key("bob", OTHER, Rights()))
    store.close()
    look(gate)
    assert refuses(gate, **GOOD), "the new file has the keys now"
    assert gate.identify({"x-api-key": OTHER}) is not None


@pytest.mark.parametrize("damage", [b"", b"garbage" * 1000])
def test_a_damaged_database_changes_no_key_until_it_is_whole(gate: Gate, path: Path, damage: bytes) -> None:
    shutil.copy(path, path.with_suffix(".good"))
    with capture_logs() as lines:
        path.write_bytes(damage)
        for _ in range(3):
            served(gate, ALICE, 5)
            look(gate)
            assert refuses(gate)
            assert gate.identify(GOOD) == ALICE
        path.with_suffix(".good").rename(path)
        look(gate)
        assert gate.identify(GOOD) == ALICE
    assert len([line for line in lines if line["log_level"] == "warning"]) == 2, "reading and saving, once"


def test_a_change_behind_a_failure_is_noticed(gate: Gate, path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(b"garbage" * 1000)
    look(gate)
    path.write_bytes(whole)
    store = KeyStore(path)
    store.revoke("alice")
    store.add(make_key("bob", OTHER, Rights()))
    store.close()
    look(gate)
    assert refuses(gate, **GOOD), "the key was revoked while the gateway could not read"


def test_keys_are_read_although_tokens_cannot_be_saved(gate: Gate, path: Path) -> None:
    database = sqlite3.connect(path)
    with database:
        database.execute("DROP TABLE spent")
        database.execute("DELETE FROM keys")
    database.close()
    served(gate, ALICE, 5)
    with capture_logs() as lines:
        look(gate)
        look(gate)
    assert not gate.has_keys
    assert [line["log_level"] for line in lines if line["log_level"] != "info"] == ["warning"]


def test_a_server_cannot_report_what_cannot_be_saved(gate: Gate, path: Path) -> None:
    served(gate, ALICE, 10**30)
    served(gate, make_key("bob", OTHER, Rights()), -(10**30))
    look(gate)
    spent = saved_tokens(path)
    assert spent["alice"] > 10_000
    assert spent.get("bob", 0) == 0


def test_the_last_revoked_key_opens_no_gateway_that_others_reach(path: Path) -> None:
    for reachable in (True, False):
        gate = Gate(KeyStore(path), is_reachable=reachable)
        gate.load()
        store = KeyStore(path)
        store.revoke("alice")
        look(gate)
        assert refuses(gate) is reachable
        assert gate.needs_key is reachable
        assert gate.sees_all(None) is not reachable
        gate.close()
        store.add(ALICE)
        store.close()


@pytest.mark.parametrize("secret", ["\udcfc", "ü", "\udcff" * 300, SECRET + "\udcfc", "x" * 100_000])
def test_an_odd_secret_is_a_wrong_one(gate: Gate, secret: str) -> None:
    assert refuses(gate, Authorization=f"Bearer {secret}")
    assert refuses(gate, **{"x-api-key": secret})


def test_ten_thousand_keys_are_read(path: Path) -> None:
    database = sqlite3.connect(path)
    rows = ((f"k{n}", n.to_bytes(32, "big"), "hint", "{}", 1.0) for n in range(10_000))
    with database:
        database.executemany("INSERT INTO keys VALUES (?, ?, ?, ?, ?)", rows)
    database.close()
    gate = Gate(KeyStore(path))
    gate.load()
    assert gate.identify(GOOD) == ALICE
    assert len(gate.weights) == 10_001
    gate.close()


def test_an_agent_of_a_revoked_key_reaches_no_model(gate: Gate) -> None:
    gone = gate.key_named("gone")
    assert gone is not None
    assert not gone.rights.may_use_model(["small"])
    assert gate.key_named("") is None
    assert gate.key_named("alice") == ALICE


@pytest.mark.parametrize(
    ("generates", "begun", "left", "spent"),
    [
        (True, True, False, ANSWER_TOKENS),
        (True, False, True, ANSWER_TOKENS),
        (True, False, False, 0),
        (False, True, True, 0),
    ],
)
def test_an_agents_call_that_nobody_counted_is_not_free(
    gate: Gate, path: Path, generates: bool, begun: bool, left: bool, spent: int
) -> None:
    call = Exchange("CALL", "agents", "id", (gate.settle,))
    call.key, call.epoch, call.status, call.agent = ALICE, 1, 200, "rag"
    call.generates = generates
    if begun:
        call.first_byte()
    if left:
        call.client_left()
    call.finish()
    look(gate)
    assert saved_tokens(path).get("alice", 0) == spent


def test_a_reload_changes_the_configured_keys_alone(gate: Gate) -> None:
    bob = make_key("bob", OTHER, Rights(weight=3), configured=True)
    gate.reconfigure([bob], is_open=False)
    assert gate.identify(GOOD) == gate.ring.by_name["alice"]
    assert gate.identify({"x-api-key": OTHER}) == bob
    assert gate.weights["bob"] == 3
    gate.reconfigure([], is_open=True)
    assert gate.identify({"x-api-key": OTHER}) is None
    assert gate.identify(GOOD) == gate.ring.by_name["alice"]


def test_whether_a_gateway_would_start_with_other_keys(tmp_path: Path) -> None:
    bob = make_key("bob", OTHER, Rights(), configured=True)
    for reachable, keys, is_open, expected in (
        (False, [], False, True),
        (True, [], False, False),
        (True, [bob], False, True),
        (True, [], True, True),
    ):
        gate = Gate(KeyStore(tmp_path / "none"), [bob], is_reachable=reachable)
        gate.load()
        assert gate.would_serve(keys, is_open=is_open) == expected
        gate.close()
