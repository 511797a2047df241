"""The database of keys."""

import resource
import sqlite3
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from proxy.access.keys import Rights, digest_of, make_key
from proxy.access.store import KeyStore, KeyStoreError

RIGHTS = Rights(models=("a*",), concurrent=2, tokens_per_day=1000, weight=0.5, expires=2e9, admin=True)
KEY = make_key("alice", "a-secret-of-alice", RIGHTS)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[], KeyStore]]:
    """Opens the database, any number of times; all are closed in the end."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(closing(KeyStore(tmp_path / "keys")))


def test_keys_survive_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "keys"
    store = KeyStore(path)
    assert store.add(KEY)
    assert not store.add(KEY), "the name is taken"
    store.close()
    with closing(KeyStore(path)) as reopened:
        assert reopened.all_keys() == [KEY]


def test_nobody_else_can_read_it_and_it_has_no_secret(tmp_path: Path) -> None:
    store = KeyStore(tmp_path / "keys")
    store.add(KEY)
    store.close()
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o600
    assert b"a-secret-of-alice" not in (tmp_path / "keys").read_bytes()


def test_nothing_is_made_by_reading(tmp_path: Path) -> None:
    store = KeyStore(tmp_path / "keys")
    assert store.all_keys() == []
    assert store.version() is None
    assert not store.revoke("alice")
    assert not store.rotate("alice", "another-secret-of", "t-of")
    assert list(tmp_path.iterdir()) == []


def test_rotating_changes_the_secret_alone(opened: Callable[[], KeyStore]) -> None:
    store = opened()
    store.add(KEY)
    assert store.rotate("alice", "another-secret-of-hers", "hers")
    (key,) = store.all_keys()
    assert (key.digest, key.hint, key.rights) == (digest_of("another-secret-of-hers"), "hers", RIGHTS)
    assert store.revoke("alice")
    assert store.all_keys() == []


def test_changes_by_others_are_noticed(opened: Callable[[], KeyStore], tmp_path: Path) -> None:
    mine, other = opened(), opened()
    other.add(KEY)
    before = mine.version()
    assert mine.version() == before
    mine.save_spent(20_000, {"alice": 5})
    assert mine.version() == before, "its own writing is no news"
    other.revoke("alice")
    assert mine.version() != before
    other.close()
    (tmp_path / "keys").unlink()
    opened().add(make_key("bob", "a-secret-of-bob-01", Rights()))
    assert [key.name for key in mine.all_keys()] == ["bob"], "the file was replaced"


def test_spent_tokens_are_kept_by_day(opened: Callable[[], KeyStore]) -> None:
    store = opened()
    store.save_spent(20_000, {"alice": 5, "bob": 7})
    store.save_spent(20_000, {"alice": 9})
    store.save_spent(20_001, {"alice": 1})
    assert store.spent(20_000) == {"alice": 9, "bob": 7}
    store.save_spent(20_100, {})
    assert store.spent(20_001) == {}


@pytest.mark.parametrize("content", [b"no database at all, but some text" * 50, b""])
def test_a_file_that_is_no_database_of_keys(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "keys").write_bytes(content)
    with pytest.raises(KeyStoreError, match="cannot be used"):
        KeyStore(tmp_path / "keys").all_keys()


def test_another_version_is_not_read(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "keys")) as other:
        other.execute("PRAGMA user_version = 9")
    with pytest.raises(KeyStoreError, match="version 9, not 1"):
        KeyStore(tmp_path / "keys").add(KEY)


def test_a_full_disk_leaves_no_empty_file(tmp_path: Path) -> None:
    store = KeyStore(tmp_path / "keys")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(KeyStoreError):
            store.add(KEY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert store.all_keys() == []
    assert store.add(KEY)
    assert store.all_keys() == [KEY]
    store.close()


def test_several_make_the_first_key_at_once(opened: Callable[[], KeyStore], tmp_path: Path) -> None:
    def add(number: int) -> bool:
        with closing(KeyStore(tmp_path / "keys")) as store:
            return store.add(make_key(f"key-{number}", f"a-secret-of-{number}", RIGHTS))

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(add, range(8)))
    assert len(opened().all_keys()) == 8
