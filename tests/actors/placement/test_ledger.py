"""Playbooks of the ledger: what is reserved, measured and given back. Sizes are GiB."""

import pytest

from actors.placement.fit import Placement, Share
from actors.placement.ledger import GROWTH, LAG, Device, Holding, HostMemory, Ledger
from actors.placement.options import Option

GIB = 1 << 30


class Book:
    """A ledger of two GPUs, a of 24 GiB and b of 10, and the clock of its samples."""

    def __init__(self, *, headroom: float = 0, overhead: float = 0, host: float | None = None) -> None:
        self.ledger = Ledger(int(headroom * GIB))
        self.overhead = overhead
        self.host = host
        self.sample(1)

    def sample(
        self,
        asked_at: float,
        a: float | None = 0,
        b: float | None = 0,
        groups: dict[int, float] | None = None,
        available: float | None = None,
    ) -> None:
        """GiB that are used of each GPU, None for one that is lost. `groups` are those on a."""
        seen = {group: int(size * GIB) for group, size in (groups or {}).items()}
        devices = [
            Device(
                id=name,
                index=index,
                name="GPU",
                total=int(total * GIB),
                used=int(used * GIB),
                groups=seen if name == "a" else {},
                overhead=int(self.overhead * GIB),
            )
            for index, (name, total, used) in enumerate((("a", 24, a), ("b", 10, b)))
            if used is not None
        ]
        host = None
        if self.host is not None:
            free = self.host if available is None else available
            host = HostMemory(total=int(self.host * GIB), available=int(free * GIB))
        self.ledger.sample(devices, host, asked_at)

    def start(self, model: str, process: int | None = None, **shares: float) -> Holding:
        """Reserve so many GiB on each GPU, and have its process."""
        self.ledger.reserve(model, placement(**shares))
        holding = self.ledger.holdings[model]
        holding.process = process
        return holding

    @property
    def rooms(self) -> dict[str, float]:
        return {device: round(room / GIB, 3) for device, room in self.ledger.rooms().items()}

    def capacities(self, *kept: str) -> dict[str, float]:
        return {device: round(room / GIB, 3) for device, room in self.ledger.capacities(kept).items()}

    @property
    def host_room(self) -> float:
        return self.ledger.host_room() / GIB


def placement(*, pinned: float = 0, mapped: float = 0, **shares: float) -> Placement:
    return Placement(
        option=Option(how="whole", context=1, pinned=int(pinned * GIB), mapped=int(mapped * GIB)),
        shares=tuple(
            Share(device=device, layers=1, bytes=int(size * GIB)) for device, size in shares.items()
        ),
        why="",
    )


def test_what_was_predicted_is_reserved_until_it_is_measured() -> None:
    book = Book()
    assert book.rooms == {"a": 24, "b": 10}
    holding = book.start("m", 7, a=8)
    assert book.rooms == {"a": 16, "b": 10}
    # It loads: what it has so far is its own, and the rest is still to come.
    book.sample(2, a=3, groups={7: 3})
    assert book.rooms == {"a": 16, "b": 10}
    holding.ready_at = 3
    book.sample(4, a=6, groups={7: 6})
    assert book.rooms["a"] == pytest.approx(24 - 6 - GROWTH / GIB, abs=0.001)


@pytest.mark.parametrize(
    ("seen", "taken"),
    [(6, 6 + GROWTH / GIB), (7.9, 8), (8, 8), (9.5, 9.5), (0, 8)],
    ids=["less", "nearly all", "all", "more", "NVML says nothing"],
)
def test_a_loaded_model_may_grow_up_to_its_prediction(seen: float, taken: float) -> None:
    book = Book()
    holding = book.start("m", 7, a=8)
    holding.ready_at = 2
    book.sample(3, a=seen or 8, groups={7: seen} if seen else {})
    assert book.ledger.taken(holding, "a") / GIB == pytest.approx(taken, abs=0.001)
    assert book.rooms["a"] == pytest.approx(24 - taken, abs=0.001)
    assert book.ledger.frees("m")["a"] / GIB == pytest.approx(taken, abs=0.001)


@pytest.mark.parametrize("asked_at", [2, 3], ids=["before it was ready", "at that moment"])
def test_what_was_measured_while_it_loaded_is_not_all_that_it_takes(asked_at: float) -> None:
    book = Book()
    holding = book.start("m", 7, a=8)
    if asked_at == 2:
        book.sample(2, a=1, groups={7: 1})
        holding.ready_at = 3
    else:
        holding.ready_at = 3
        book.sample(3, a=1, groups={7: 1})
    # Something else happens before the next sample.
    book.start("other", b=1)
    assert book.rooms == {"a": 16, "b": 9}


def test_memory_is_reserved_until_it_is_looked_for() -> None:
    book = Book()
    holding = book.start("m", 7, a=8)
    holding.ready_at = 2
    book.sample(3, a=8, groups={7: 8})
    book.ledger.release("m", 3.5)
    assert book.ledger.leaving
    assert book.rooms["a"] == 16
    assert book.ledger.returns() == {"a": 8 * GIB}
    assert book.capacities()["a"] == 24
    book.sample(5)
    assert not book.ledger.leaving
    assert not any(book.ledger.returns().values())
    assert book.rooms["a"] == 24


def test_a_sample_from_before_the_exit_frees_nothing() -> None:
    book = Book()
    book.start("m", 7, a=8)
    book.ledger.release("m", 5)
    # Asked for while it was loading, and told when it had ended: what it took since is not in it.
    book.sample(4, a=1, groups={7: 1})
    assert book.ledger.leaving
    assert book.rooms["a"] == 16
    assert book.capacities()["a"] == 24
    book.sample(6)
    assert not book.ledger.leaving
    assert book.rooms["a"] == 24


def test_memory_that_lags_is_foreign_until_it_is_back() -> None:
    book = Book()
    book.start("m", 7, a=8).ready_at = 2
    book.sample(3, a=8, groups={7: 8})
    book.ledger.release("m", 3.5)
    book.sample(4, a=8)
    assert book.rooms["a"] == 16
    assert book.ledger.foreign["a"] == 8 * GIB
    assert book.capacities()["a"] == 24
    book.sample(5, a=3)
    assert book.rooms["a"] == 21
    assert book.ledger.returns() == {"a": 3 * GIB}
    assert book.capacities()["a"] == 24
    book.sample(6, a=0)
    assert book.rooms["a"] == book.capacities()["a"] == 24


def test_memory_that_does_not_come_back_is_somebody_elses() -> None:
    book = Book()
    book.start("m", 7, a=8).ready_at = 2
    book.sample(3, a=8, groups={7: 8})
    book.ledger.release("m", 3.5)
    book.sample(3.5 + LAG, a=8)
    assert not any(book.ledger.returns().values())
    assert book.rooms["a"] == book.capacities()["a"] == 16


def test_a_model_that_never_got_memory_gives_none_back_twice() -> None:
    book = Book()
    book.start("m", a=8)
    book.ledger.release("m", 1.5)
    assert book.ledger.release("m", 1.5) is None
    assert book.ledger.returns() == {"a": 8 * GIB}
    book.start("m", a=5)
    assert book.rooms["a"] == 24 - 8 - 5
    book.sample(5)
    assert book.rooms["a"] == 19


def test_foreign_users_come_and_go() -> None:
    book = Book()
    book.start("m", 7, a=8).ready_at = 2
    book.sample(3, a=8 + 5, b=9.5, groups={7: 8, 99: 5})
    assert book.rooms == {"a": 11, "b": 0.5}
    assert book.capacities() == {"a": 19, "b": 0.5}
    book.sample(4, a=8, groups={7: 8})
    assert book.rooms == {"a": 16, "b": 10}


def test_there_may_be_less_than_nothing() -> None:
    book = Book()
    book.start("m", 7, a=20).ready_at = 2
    book.sample(3, a=24, groups={7: 12, 99: 12})
    assert book.rooms["a"] < 0
    assert book.ledger.foreign["a"] == 12 * GIB


def test_where_nvml_does_not_tell_processes_apart() -> None:
    book = Book()
    holding = book.start("m", 7, a=8)
    # It is not known whose these are, so that both stay apart.
    book.sample(2, a=5)
    assert book.rooms["a"] == 11
    holding.ready_at = 3
    book.sample(4, a=7.5)
    assert book.rooms["a"] == 16
    book.sample(5, a=7.5 + 4)
    assert book.rooms["a"] == pytest.approx(24 - 8 - 3.5)
    book.ledger.release("m", 5.5)
    book.sample(6, a=4)
    assert book.rooms["a"] == 20


def test_who_loads_unseen_is_not_taken_for_foreign_for_good() -> None:
    """What the GPU could have is not less because a model of ours is just being loaded."""
    book = Book()
    holding = book.start("m", 7, a=8)
    book.sample(2, a=5)
    assert book.capacities()["a"] == 24
    holding.ready_at = 3
    book.sample(4, a=8)
    assert book.capacities()["a"] == 24


def test_several_models_on_one_gpu() -> None:
    book = Book()
    for nth, size in enumerate((8, 5, 3), start=1):
        book.start(f"m{nth}", nth, a=size).ready_at = 2
    book.start("split", 4, a=2, b=4).ready_at = 2
    assert book.rooms == {"a": 6, "b": 6}
    book.sample(3, a=18, b=4, groups={1: 8, 2: 5, 3: 3, 4: 2})
    assert book.rooms == {"a": 6, "b": 6}
    assert {model: book.ledger.frees(model) for model in ("m2", "split", "x")} == {
        "m2": {"a": 5 * GIB},
        "split": {"a": 2 * GIB, "b": 4 * GIB},
        "x": {},
    }
    book.ledger.release("m2", 3.5)
    book.sample(4, a=13, b=4, groups={1: 8, 3: 3, 4: 2})
    assert book.rooms == {"a": 11, "b": 6}


def test_the_room_beside_models_that_stay() -> None:
    book = Book(headroom=1)
    book.start("kept", 1, a=8)
    book.start("other", 2, a=4, b=4)
    book.ledger.release("gone", 1.5)
    assert book.rooms == {"a": 11, "b": 5}
    assert book.capacities("kept") == {"a": 15, "b": 9}
    assert book.capacities() == {"a": 23, "b": 9}
    assert book.rooms == {"a": 11, "b": 5}, "to ask changes nothing"


def test_headroom_and_overhead() -> None:
    book = Book(headroom=0.5, overhead=0.25)
    assert book.rooms == {"a": 23.25, "b": 9.25}
    holding = book.start("m", 7, a=8)
    # What the process takes beside its buffers is reserved for this one, and kept for the next.
    assert holding.reserved == {"a": 8.25 * GIB}
    assert book.rooms["a"] == 15
    book.overhead = 0.75
    holding.ready_at = 2
    book.sample(3, a=8.25, groups={7: 8.25})
    assert book.rooms["a"] == 14.5
    book.ledger.release("m", 3.5)
    book.sample(4)
    assert book.rooms["a"] == 22.75


def test_a_gpu_that_is_lost_and_comes_back() -> None:
    book = Book()
    book.start("m", 7, a=8, b=2).ready_at = 2
    book.sample(3, a=8, b=2, groups={7: 8})
    book.sample(4, a=None, b=2)
    assert book.rooms == {"b": 8}
    assert book.capacities() == {"b": 10}
    assert book.ledger.frees("m") == {"b": 2 * GIB}
    assert book.ledger.where(book.ledger.holdings["m"].placement.shares) == "GPU a, 1"
    book.sample(5, a=8, b=2, groups={7: 8})
    assert book.rooms == {"a": 16, "b": 8}
    # It is lost again, and its model ends with it.
    book.sample(6, a=None, b=2)
    book.ledger.release("m", 6.5)
    assert book.rooms == {"b": 8}
    assert book.capacities() == {"b": 10}
    book.sample(7, a=0, b=0)
    assert book.rooms == {"a": 24, "b": 10}


def test_all_gpus_are_lost() -> None:
    book = Book()
    book.start("m", 7, a=8)
    book.sample(2, a=None, b=None)
    assert book.rooms == {}
    book.ledger.release("m", 2.5)
    assert not book.ledger.leaving, "there is nothing to look for"
    book.sample(3)
    assert book.rooms == {"a": 24, "b": 10}


def test_the_host_has_room_until_it_is_known() -> None:
    assert Book().host_room == float("inf")


def test_the_memory_of_the_host() -> None:
    book = Book(host=64)
    book.sample(2, available=50)
    assert book.host_room == 50
    holding = book.start("m", pinned=10, mapped=20)
    assert holding.host == 30 * GIB
    assert book.host_room == 20
    assert book.ledger.host_room({"m"}) == 50 * GIB
    # Loaded, its pinned memory is used, and its file is in memory that the system could drop.
    holding.ready_at = 3
    book.sample(4, available=40)
    assert book.host_room == 20
    # Somebody else takes 5.
    book.sample(5, available=35)
    assert book.host_room == 15
    book.ledger.release("m", 5.5)
    assert book.host_room == 45
    book.sample(6, available=45)
    assert book.host_room == 45


def test_the_most_that_was_seen_is_remembered() -> None:
    book = Book()
    holding = book.start("m", 7, a=8)
    for nth, size in enumerate((2, 9, 7), start=2):
        book.sample(nth, a=size, groups={7: size})
    assert holding.peaks == {"a": 9 * GIB}
    assert holding.seen == {"a": 7 * GIB}
    book.sample(9, a=7)
    assert holding.seen == {}


@pytest.mark.parametrize(
    ("shares", "words"), [({}, "host"), ({"b": 1}, "GPU 1"), ({"a": 1, "b": 1}, "GPU 0, 1")]
)
def test_where(shares: dict[str, float], words: str) -> None:
    assert Book().ledger.where(placement(**shares).shares) == words


def grown(pinned: float, grows: float, process: int) -> tuple[Ledger, Holding]:
    """A loaded model on a host of 16 GiB that may grow by `grows` to `pinned`."""
    ledger = Ledger()
    option = Option(
        how="host", context=0, pinned=int(pinned * GIB), grows=int(grows * GIB), mapped=0, certainty="exact"
    )
    ledger.reserve("m", Placement(option=option, shares=(), why=""))
    holding = ledger.holdings["m"]
    holding.process, holding.ready_at = process, 1.0
    return ledger, holding


@pytest.mark.parametrize(("own", "used"), [(3, 5), (4, 6), (5, 7), (5.5, 7.5)])
def test_what_a_server_grows_by_is_its_own(own: float, used: float) -> None:
    """2 GiB are of others, whatever the server has of the 2 GiB by which it may grow."""
    ledger, _ = grown(5, 2, 42)
    host = HostMemory(
        total=16 * GIB, available=int((16 - used) * GIB), groups={42: int(own * GIB), 7: 9 * GIB}
    )
    ledger.sample([], host, 2.0)
    beyond = max(0.0, own - 5)
    assert ledger.host_room() / GIB == pytest.approx(16 - 2 - 5 - 2 * beyond)
    # Without it, all of it comes back but what it has beyond its reservation.
    assert ledger.host_capacity(()) / GIB == pytest.approx(14 - beyond)


def test_a_server_whose_memory_is_not_seen_has_what_it_began_with() -> None:
    ledger, holding = grown(5, 2, 42)
    ledger.sample([], HostMemory(total=16 * GIB, available=11 * GIB), 2.0)
    assert holding.taken_host == 3 * GIB
    assert ledger.host_room() == (16 - 2 - 5) * GIB
