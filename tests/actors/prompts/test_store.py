"""The store: whole prompts alone, of their key alone, private, and no more than there is room for."""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from actors.prompts.chain import Chain
from actors.prompts.store import SPARE, Entry, Store, StoreError, read_entries

DAY = 24 * 3600.0


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def disk() -> dict[str, int]:
    return {"free": SPARE + (1 << 30)}


@pytest.fixture
def make(tmp_path: Path, clock: Clock, disk: dict[str, int]) -> Iterator[Callable[..., Store]]:
    made: list[Store] = []

    def make(budget: int = 1 << 30) -> Store:
        store = Store(tmp_path / "prompts", budget, DAY, clock, free=lambda _: disk["free"])
        store.open()
        made.append(store)
        return store

    yield make
    for store in made:
        store.close()


def chain(*words: str) -> Chain:
    digests = tuple("/".join(words[: n + 1]) for n in range(len(words)))
    return Chain(digests, tuple(range(1, len(words) + 1)))


def save(store: Store, *words: str, client: str = "", size: int = 1000, pace: float = 0.01) -> Entry | None:
    name = store.begin(size)
    if name is None:
        return None
    store.part(name).write_bytes(os.urandom(size))
    now = store._clock()
    return store.seal(
        Entry(
            id=name,
            identity="i",
            model="m",
            client=client,
            chain=chain("", *words),
            tokens=110,
            prompt=100,
            turns=1,
            pace=pace,
            size=size,
            digest="",
            saved_at=now,
            used_at=now,
        )
    )


def kept(store: Store, *words: str, client: str = "", size: int = 1000, pace: float = 0.01) -> Entry:
    entry = save(store, *words, client=client, size=size, pace=pace)
    assert entry is not None
    return entry


def test_a_prompt_is_there_after_a_restart(make: Callable[..., Store]) -> None:
    store = make()
    entry = kept(store, "a")
    assert store.is_whole(entry)
    store.close()
    again = make()
    assert again.entries == (entry,)
    assert again.find("i", "", chain("", "a", "b")) == [(entry, 110.0)]
    assert again.size == 1000


def test_only_its_owner_reads_it(make: Callable[..., Store], tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        store = make()
        kept(store, "a")
    finally:
        os.umask(old)
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in store.folder.iterdir()} == {0o600}


def test_a_folder_that_others_could_read_is_closed_to_them(
    make: Callable[..., Store], tmp_path: Path
) -> None:
    (tmp_path / "prompts").mkdir(mode=0o755)
    assert stat.S_IMODE(make().folder.stat().st_mode) == 0o700


def test_prompts_never_cross_keys(make: Callable[..., Store]) -> None:
    store = make()
    entry = kept(store, "a", client="alice")
    asked = chain("", "a", "b")
    assert store.find("i", "alice", asked) == [(entry, 110.0)]
    assert (
        store.find("i", "bob", asked) == store.find("i", "", asked) == store.find("j", "alice", asked) == []
    )


def test_the_longest_comes_first(make: Callable[..., Store]) -> None:
    store = make()
    other = kept(store, "a", "x")
    whole = kept(store, "a")
    assert store.find("i", "", chain("", "a", "b")) == [(whole, 110.0), (other, pytest.approx(100 * 2 / 3))]
    assert store.find("i", "", chain("", "y")) == []


def test_a_conversation_replaces_what_it_continues(make: Callable[..., Store]) -> None:
    store = make()
    kept(store, "a")
    theirs = kept(store, "a", client="bob")
    longer = kept(store, "a", "b")
    assert set(store.entries) == {theirs, longer}
    assert len(list(store.folder.glob("*.prompt"))) == 2


def test_what_a_crash_leaves_is_removed_and_nothing_else(make: Callable[..., Store]) -> None:
    store = make()
    whole = kept(store, "a")
    folder = store.folder
    store.close()
    name = "0" * 32
    (folder / f"{name}.part").write_bytes(b"half a prom")
    (folder / f"{'1' * 32}.prompt").write_bytes(b"a prompt without an entry")
    (folder / f"{'2' * 32}.json").write_bytes(b"{")
    (folder / f"{'3' * 32}.new").write_bytes(b"")
    short = msgspec.structs.replace(whole, id="4" * 32)
    (folder / f"{short.id}.json").write_bytes(msgspec.json.encode(short))
    (folder / f"{short.id}.prompt").write_bytes(b"too short")
    alien = msgspec.structs.replace(whole, id="5" * 32, format=99)
    (folder / f"{alien.id}.json").write_bytes(msgspec.json.encode(alien))
    (folder / f"{alien.id}.prompt").write_bytes(bytes(whole.size))
    (folder / "notes.txt").write_bytes(b"mine")
    (folder / "photo.prompt").write_bytes(b"mine")
    (folder / f"{'6' * 32}.json").symlink_to(folder / f"{whole.id}.json")
    again = make()
    assert again.entries == (whole,)
    assert {path.name for path in folder.iterdir()} == {
        f"{whole.id}.json",
        f"{whole.id}.prompt",
        "notes.txt",
        "photo.prompt",
        "lock",
    }


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_prompt_is_noticed(make: Callable[..., Store], damage: str) -> None:
    store = make()
    entry = kept(store, "a")
    path = store.path(entry)
    if damage == "gone":
        path.unlink()
    else:
        raw = bytearray(path.read_bytes())
        raw[500] ^= 1
        path.write_bytes(raw if damage == "flip" else raw[:-1])
    assert not store.is_whole(entry)
    assert store.entries == ()
    assert not list(store.folder.glob("*.json"))


def test_the_least_worth_goes_when_the_budget_is_full(make: Callable[..., Store]) -> None:
    store = make(budget=2500)
    dear, cheap = kept(store, "a", pace=1.0), kept(store, "b", pace=0.001)
    third = kept(store, "c", pace=0.1)
    assert set(store.entries) == {dear, third}
    assert store.size <= 2500
    assert not store.path(cheap).exists()
    assert save(store, "d", size=3000) is None, "larger than the budget"
    assert set(store.entries) == {dear, third}, "and nothing goes for it"


def test_the_old_go(make: Callable[..., Store], clock: Clock) -> None:
    store = make()
    kept(store, "a")
    used = kept(store, "b")
    clock.now += DAY - 1
    store.used(used, 5.0)
    clock.now += 2
    store.trim()
    (left,) = store.entries
    assert (left.id, left.hits, left.spared) == (used.id, 1, 5.0)
    assert read_entries(store.folder) == [left]


def test_a_full_disk_costs_nothing_but_the_prompt(make: Callable[..., Store], disk: dict[str, int]) -> None:
    store = make()
    disk["free"] = SPARE + 500
    assert save(store, "a") is None
    assert not list(store.folder.glob("*.part"))


def test_prompts_go_when_the_disk_is_wanted(make: Callable[..., Store], disk: dict[str, int]) -> None:
    store = make()
    kept(store, "a")
    disk["free"] = SPARE - 1
    store.trim()
    assert store.entries == ()


def test_prompts_that_somebody_else_removed_count_no_more(make: Callable[..., Store]) -> None:
    store = make()
    entry = kept(store, "a")
    store.path(entry).unlink()
    store.trim()
    assert store.entries == ()


def test_two_gateways_do_not_share_a_folder(make: Callable[..., Store]) -> None:
    store = make()
    with pytest.raises(StoreError, match="another gateway"):
        make()
    store.close()
    make()


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = Store(tmp_path / "file" / "prompts", 1 << 30, DAY)
    with pytest.raises(StoreError, match="file"):
        store.open()
    assert read_entries(tmp_path / "none") == []
