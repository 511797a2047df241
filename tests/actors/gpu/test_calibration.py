"""What loads teach: by tables and properties; and a memory of them that survives what happens to files."""

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import median
from threading import Barrier, Thread
from typing import Any

import msgspec
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.gpu.calibration import (
    LEAST,
    MIB,
    OTHERS,
    START,
    Accuracy,
    Calibration,
    DeviceLoad,
    Load,
    Surcharge,
)
from actors.gpu.calibration_file import SCHEMA
from actors.placement.ledger import GROWTH
from tests.effort import examples

GIB = 1 << 30
CARD = ("H100", "580.1", "b11434")
CERTAINTIES = st.sampled_from(["exact", "bound", "fallback"])


@contextmanager
def opened(path: Path | None = None) -> Iterator[Calibration]:
    with closing(Calibration(path)) as calibration:
        yield calibration


@pytest.fixture
def calibration() -> Iterator[Calibration]:
    with opened() as memory:
        yield memory


def device(**fields: Any) -> DeviceLoad:
    values = {"gpu": "H100", "driver": "580.1", "predicted": GIB, "buffers": GIB}
    return DeviceLoad(**{**values, **fields})


def load(*devices: DeviceLoad, **fields: Any) -> Load:
    values = {
        "model": "demo",
        "file": "file",
        "settings": "settings",
        "build": "b11434",
        "certainty": "bound",
        "seconds": 1.5,
        "host_predicted": MIB,
    }
    return Load(devices=devices or (device(),), **{**values, **fields})


def took(residual: int | None, *, grown: int | None = None, **fields: Any) -> Load:
    """One that took so many bytes beside its buffers, at last `grown`."""
    measured = None if residual is None else GIB + residual
    return load(device(measured=measured, peak=None if grown is None else GIB + grown), **fields)


def differed(*differences: int | None, **fields: Any) -> Load:
    """One whose buffers differed so much from what was predicted, on each of its devices."""
    devices = [device(buffers=None if by is None else GIB + by) for by in differences]
    return load(*devices, **fields)


def ran_out(calibration: Calibration, size: int, **fields: Any) -> None:
    calibration.ran_out(Surcharge(**{"file": "file", "settings": "settings", "bytes": size, **fields}))


# Overhead


@pytest.mark.parametrize(
    ("loads", "expected"),
    [
        ([], START),
        ([took(None)], START),
        ([took(100 * MIB, grown=200 * MIB)], START),
        ([took(100 * MIB, grown=600 * MIB)], 600 * MIB),
        # While it runs it may yet grow.
        ([took(100 * MIB)], START),
        ([took(450 * MIB)], 450 * MIB + GROWTH),
        # After the fifth the card is known, with what it took at most.
        ([took(100 * MIB, grown=200 * MIB)] * 4, START),
        ([took(100 * MIB, grown=200 * MIB)] * 5, 200 * MIB),
        ([took(100 * MIB, grown=200 * MIB)] * 5 + [took(None)], 200 * MIB),
        ([took(100 * MIB, grown=200 * MIB)] * 5 + [took(150 * MIB)], 150 * MIB + GROWTH),
        ([took(900 * MIB, grown=800 * MIB)] + [took(0, grown=200 * MIB)] * 49, 900 * MIB),
        ([took(900 * MIB, grown=800 * MIB)] + [took(0, grown=200 * MIB)] * 50, 200 * MIB),
        ([took(0, grown=MIB)] * 5, LEAST),
        ([took(None, grown=200 * MIB)] * 5, 200 * MIB),
        # Another driver or build counts until this one is known, and never lowers the start.
        ([took(0, grown=600 * MIB, build="b1")] * 9, 600 * MIB),
        ([took(0, grown=200 * MIB, build="b1")] * 9, START),
        ([took(0, grown=600 * MIB, build="b1")] + [took(0, grown=200 * MIB)] * 4, 600 * MIB),
        ([took(0, grown=600 * MIB, build="b1")] + [took(0, grown=200 * MIB)] * 5, 200 * MIB),
        ([load(device(driver="1", measured=GIB, peak=2 * GIB))], GIB),
        # Another card does not.
        ([load(device(gpu="T4", measured=GIB, peak=2 * GIB))], START),
        # Without a log there is only the prediction to compare with.
        ([load(device(buffers=None, peak=GIB + 700 * MIB))], 700 * MIB),
        ([load(device(predicted=0, peak=GIB + 700 * MIB))], 700 * MIB),
        # NVML's 0 is no figure.
        ([load(device(measured=0, peak=0))] * 5, START),
        # Two cards of a load are one load, by the one that took more.
        ([load(device(peak=GIB + 100 * MIB), device(peak=GIB + 200 * MIB))] * 3, START),
        ([load(device(peak=GIB + 200 * MIB), device(peak=GIB + 100 * MIB))] * 5, 200 * MIB),
    ],
)
def test_overhead(calibration: Calibration, loads: list[Load], expected: int) -> None:
    for number, each in enumerate(loads):
        # The bound of 50 for one file is not what is tested here.
        calibration.record(load(*each.devices, file=str(number), build=each.build))
    assert calibration.overhead(*CARD) == expected


def test_peaks_come_later(calibration: Calibration) -> None:
    number = calibration.record(load(device(measured=GIB + 400 * MIB), device(measured=GIB + 10 * MIB)))
    assert calibration.overhead(*CARD) == 400 * MIB + GROWTH
    calibration.peaked(number, [GIB + 550 * MIB, None])
    assert calibration.overhead(*CARD) == 550 * MIB
    calibration.peaked(number, [GIB + 520 * MIB, GIB + 600 * MIB])
    assert calibration.overhead(*CARD) == 600 * MIB
    calibration.peaked(number, [GIB + 500 * MIB, GIB + 500 * MIB, GIB * 9])
    calibration.peaked(number + 1, [GIB * 9])
    assert calibration.overhead(*CARD) == 600 * MIB


residuals = st.integers(-GIB // 2, GIB)


@given(st.lists(st.tuples(residuals, st.none() | residuals), max_size=60))
def test_an_overhead_has_room_for_what_loads_needed(needs: list[tuple[int, int | None]]) -> None:
    with opened() as calibration:
        for number, (residual, grown) in enumerate(needs):
            calibration.record(took(residual, grown=grown, file=str(number)))
        overhead = calibration.overhead(*CARD)
    recent = [max(residual, residual if grown is None else grown) for residual, grown in needs][-50:]
    assert overhead >= LEAST
    assert overhead >= max(recent, default=0)
    assert overhead >= (median(recent) if recent else START)
    assert len(needs) >= 5 or overhead >= START


# Correction


@pytest.mark.parametrize(
    ("loads", "expected"),
    [
        ([], [0]),
        ([differed(0)], [0]),
        ([differed(100)], [100]),
        ([differed(-100)], [-50]),
        ([differed(-101)], [-50]),
        # Of too little the most, of too much half of the least.
        ([differed(300), differed(100), differed(-900)], [300]),
        ([differed(-300), differed(-100), differed(-900)], [-50]),
        ([differed(-300), differed(0)], [0]),
        # What was too little once is not forgotten, however much was enough since.
        ([differed(300)] + [differed(100)] * 5, [300]),
        ([differed(300)] + [differed(0)] * 120, [300]),
        ([differed(300, 0), differed(0, 200)] + [differed(0, 0)] * 120, [300, 200]),
        ([differed(300), differed(500, None)] + [differed(-7)] * 120, [300]),
        ([differed(300), differed(500, 0)] + [differed(-7)] * 120, [300]),
        ([differed(300)] + [differed(100)] * 4 + [differed(None)] * 9, [300]),
        # An exact prediction is not made smaller, and rounding is no difference.
        ([differed(-100 * MIB, certainty="exact")], [0]),
        ([differed(MIB - 1, certainty="exact")], [0]),
        ([differed(8 * MIB, certainty="exact")], [8 * MIB]),
        # Of any build, but only of this file with these settings on so many devices.
        ([differed(100, build="b1")], [100]),
        ([differed(100, file="other")], [0]),
        ([differed(100, settings="other")], [0]),
        ([differed(100, 200)], [0]),
        ([], [0, 0]),
        ([differed(100)], [0, 0]),
        ([differed(100, -200), differed(-300, -100)], [100, -50]),
        ([differed(100, None), differed(7, 8)], [7, 8]),
        ([], []),
        ([msgspec.structs.replace(load(), devices=())], []),
    ],
)
def test_correction(calibration: Calibration, loads: list[Load], expected: list[int]) -> None:
    for each in loads:
        calibration.record(each)
    assert calibration.correction("file", "settings", len(expected)) == tuple(expected)


@given(st.lists(st.tuples(st.integers(-GIB, GIB), CERTAINTIES), min_size=1, max_size=12))
def test_a_corrected_prediction_is_not_too_small_again(seen: list[tuple[int, str]]) -> None:
    with opened() as calibration:
        for difference, certainty in seen:
            calibration.record(differed(difference, certainty=certainty))
        (correction,) = calibration.correction("file", "settings", 1)
    recent = seen
    for difference, certainty in recent:
        assert correction >= difference - (MIB if certainty == "exact" else 0)
    if any(difference >= MIB or certainty == "exact" for difference, certainty in recent):
        assert correction >= 0
    assert correction >= 0 or -2 * correction <= min(-difference for difference, _ in recent)


def test_memory_that_ran_out(calibration: Calibration) -> None:
    def correction() -> tuple[int, ...]:
        return calibration.correction("file", "settings", 2)

    measured = [device(buffers=GIB - 100, measured=2 * GIB)] * 2
    unmeasured = [device(buffers=GIB - 100)] * 2
    calibration.record(load(*measured))
    assert correction() == (-50, -50)
    # Nothing is taken off where memory ran out, and it adds up.
    ran_out(calibration, 1000)
    assert correction() == (1000, 1000)
    calibration.record(load(*measured))
    ran_out(calibration, 500)
    assert correction() == (1500, 1500)
    # Two loads that were measured, and just of this, end it.
    calibration.record(load(*measured))
    for other in (load(*unmeasured), load(measured[0], unmeasured[0])):
        calibration.record(other)
    calibration.record(load(*measured, file="other"))
    calibration.record(load(*measured, settings="other"))
    assert correction() == (1500, 1500)
    calibration.record(load(*measured))
    assert correction() == (-50, -50)


def test_a_surcharge_comes_on_top_of_what_was_too_little(calibration: Calibration) -> None:
    calibration.record(differed(100, certainty="exact"))
    calibration.record(differed(8 * MIB, certainty="exact"))
    ran_out(calibration, 1000)
    assert calibration.correction("file", "settings", 1) == (8 * MIB + 1000,)
    assert calibration.correction("file", "other", 1) == (0,)


def test_a_surcharge_of_a_way_that_is_not_loaded_any_more(calibration: Calibration) -> None:
    ran_out(calibration, 1000)
    for number in range(1, OTHERS):
        calibration.record(load(settings="other", model=str(number)))
    calibration.record(load(file="other", settings="other"))
    assert calibration.correction("file", "settings", 1) == (1000,)
    ran_out(calibration, 1)
    for _ in range(OTHERS - 1):
        calibration.record(load(settings="another"))
    assert calibration.surcharge("file", "settings") == 1001
    calibration.record(msgspec.structs.replace(load(settings="host"), devices=()))
    assert calibration.correction("file", "settings", 1) == (0,)


def test_a_surcharge_where_nvml_does_not_tell_of_processes(calibration: Calibration) -> None:
    ran_out(calibration, 1000)
    for number in range(OTHERS):
        assert calibration.correction("file", "settings", 1) == (1000,), number
        calibration.record(load(device(measured=None)))
    assert calibration.correction("file", "settings", 1) == (0,)


def test_surcharges_can_be_looked_at_and_forgiven(calibration: Calibration) -> None:
    ran_out(calibration, 1, model="a", paths=("/a.gguf", "/p.gguf"))
    ran_out(calibration, 2, file="other")
    first, second = calibration.surcharges()
    assert (first.model, first.paths, first.bytes) == ("a", ("/a.gguf", "/p.gguf"), 1)
    assert (second.file, second.paths) == ("other", ())
    calibration.forgive(first)
    assert calibration.surcharges() == [second]


def test_a_database_of_version_1_is_brought_up(tmp_path: Path) -> None:
    path = tmp_path / "calibration.db"
    with closing(sqlite3.connect(path)) as database:
        for statement in SCHEMA:
            database.execute(statement)
        database.execute("INSERT INTO surcharges (file, settings, bytes) VALUES ('file', 'settings', 7)")
        database.execute("PRAGMA user_version = 1")
        database.commit()
    for _ in range(2):
        with opened(path) as calibration:
            assert calibration.correction("file", "settings", 1) == (7,)
            assert calibration.surcharges()[0].paths == ()


# The rest of what is asked


def test_seconds(calibration: Calibration) -> None:
    assert calibration.load_seconds("file") is None
    for seconds in (90.0, 91.0, 92.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0):
        calibration.record(load(seconds=seconds, settings=str(seconds)))
    calibration.record(load(seconds=100.0, file="other"))
    assert calibration.load_seconds("file") == 5.0
    assert calibration.load_seconds("other") == 100.0


def test_summary(calibration: Calibration) -> None:
    assert calibration.summary() == []
    calibration.record(load(device(predicted=900, buffers=1000, measured=2000, peak=4000)))
    calibration.record(load(device(predicted=1200, buffers=1000), device(gpu="T4", buffers=None)))
    calibration.record(load(device(predicted=1000, buffers=1000), device(predicted=0, buffers=0)))
    first, second = calibration.summary()
    assert (first.gpu, first.driver, first.build, first.loads) == (*CARD, 3)
    assert (first.overhead, second.overhead) == (START, START)
    assert first.buffers == Accuracy(median=0.05, largest=0.2, worst_under=100)
    error = (900 + START - 4000) / 4000
    assert first.measured == Accuracy(median=error, largest=error, worst_under=0)
    assert (second.gpu, second.loads, second.buffers, second.measured) == ("T4", 1, None, None)


def test_the_summary_is_of_what_was_known_before_each_load(calibration: Calibration) -> None:
    for _ in range(2):
        calibration.record(load(device(buffers=GIB + 100, peak=2 * GIB)))
    (card,) = calibration.summary()
    assert card.measured is not None
    assert card.measured.worst_under == GIB - START
    # The second had room for all of it: the correction and the overhead were learned from the first.
    assert card.measured.median == card.measured.largest / 2


def test_the_last_load_of_each_model(calibration: Calibration) -> None:
    assert calibration.last_loads() == {}
    last = load(device(predicted=2, measured=5), device(predicted=3), model="a", host_buffers=7)
    for each in (load(model="a"), last, load(model="b")):
        calibration.record(each)
    assert calibration.last_loads() == {"a": last, "b": load(model="b")}


def test_dry_runs(calibration: Calibration) -> None:
    assert calibration.dry_run("key") is None
    for number in range(1001):
        calibration.remember_dry_run(str(number), b"\0%d" % number)
    assert calibration.dry_run("0") is None
    assert calibration.dry_run("1") == b"\x001"
    # What is remembered anew is the newest.
    calibration.remember_dry_run("1", b"again")
    calibration.remember_dry_run("new", b"")
    assert (calibration.dry_run("1"), calibration.dry_run("2"), calibration.dry_run("new")) == (
        b"again",
        None,
        b"",
    )


# Bounds


@settings(max_examples=examples(20))
@given(st.lists(st.sampled_from(["a", "b"]), max_size=120))
def test_fifty_of_each_are_kept(files: list[str]) -> None:
    with opened() as calibration:
        for file in files:
            calibration.record(load(file=file))
        kept = sum(card.loads for card in calibration.summary())
    assert kept == sum(min(50, files.count(file)) for file in "ab")


MANY = """
WITH RECURSIVE numbers (number) AS (SELECT 0 UNION ALL SELECT number + 1 FROM numbers WHERE number < 5009)
INSERT INTO loads (model, file, settings, build, certainty, seconds, host_predicted)
SELECT 'demo', number, 'settings', 'b11434', 'bound', 1.5, 0 FROM numbers
"""


def test_so_many_are_kept_over_all(tmp_path: Path) -> None:
    path = tmp_path / "calibration.db"
    with opened(path) as calibration:
        calibration.record(load(file="oldest"))
        # By hand, because one by one they take seconds.
        with closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA foreign_keys = ON")
            database.execute(MANY)
            database.commit()
        known = {file: calibration.load_seconds(file) for file in ("oldest", "9", "10", "5009")}
    assert known == {"oldest": None, "9": None, "10": 1.5, "5009": 1.5}
    assert count(path) == (5000, 0)


def test_a_thousand_surcharges_are_kept(calibration: Calibration) -> None:
    for number in range(1010):
        ran_out(calibration, 1, file=str(number))
    known = [calibration.correction(str(number), "settings", 1)[0] for number in range(1010)]
    assert known == [0] * 10 + [1] * 1000


# Threads, processes and files


def count(path: Path) -> tuple[int, int]:
    """Loads and devices in a database."""
    with closing(sqlite3.connect(path)) as database:
        query = "SELECT (SELECT count(*) FROM loads), (SELECT count(*) FROM devices)"
        loads, devices = database.execute(query).fetchone()
        return loads, devices


def together(*work: Callable[[], object]) -> None:
    """All at once, each on a thread."""
    barrier = Barrier(len(work))

    def begin(each: Callable[[], object]) -> None:
        barrier.wait(10)
        each()

    threads = [Thread(target=begin, args=(each,)) for each in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def test_it_is_still_known_tomorrow(tmp_path: Path) -> None:
    path = tmp_path / "made" / "calibration.db"
    with opened(path) as calibration:
        number = calibration.record(differed(100, 200))
        ran_out(calibration, 7, file="other")
        calibration.remember_dry_run("key", b"value")
    with opened(path) as calibration:
        assert calibration.correction("file", "settings", 2) == (100, 200)
        assert calibration.correction("other", "settings", 1) == (7,)
        assert calibration.dry_run("key") == b"value"
        assert calibration.record(load()) == number + 1
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_two_threads_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "calibration.db"

    def write(calibration: Calibration, name: str) -> None:
        for number in range(100):
            calibration.peaked(calibration.record(load(file=f"{name}{number}")), [2 * GIB])
            calibration.summary()

    with structlog.testing.capture_logs() as logs, opened(path) as one, opened(path) as another:
        # Two on one connection, and one of another gateway.
        together(lambda: write(one, "a"), lambda: write(one, "b"), lambda: write(another, "c"))
        assert [card.loads for card in one.summary()] == [300]
    assert count(path) == (300, 300)
    assert logs == []


def test_two_gateways_begin_at_once(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as logs:
        for number in range(20):
            path = tmp_path / str(number)

            def begin(path: Path = path) -> None:
                with opened(path) as calibration:
                    calibration.record(load())

            together(begin, begin, begin)
            assert count(path) == (3, 3)
    assert logs == []


WRITER = """
import sys
from pathlib import Path
from actors.gpu.calibration import Calibration
from tests.actors.gpu.test_calibration import device, load
calibration = Calibration(Path(sys.argv[1]))
for number in range(1_000_000):
    calibration.record(load(device(), device(), file=str(number)))
    print(number, flush=True)
"""


@pytest.mark.parametrize("lines", [1, 40])
def test_kill_9_while_it_writes(tmp_path: Path, lines: int) -> None:
    path = tmp_path / "calibration.db"
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for _ in range(lines):
            child.stdout.readline()
        child.kill()
        written = lines + len(child.stdout.readlines())
    with structlog.testing.capture_logs() as logs, opened(path) as calibration:
        assert calibration.load_seconds(str(written - 1)) == 1.5
        assert calibration.record(load()) > written
    loads, devices = count(path)
    # The last may have been written and not told. A load is there with all its devices.
    assert loads - 1 in (written, written + 1)
    assert devices == 2 * (loads - 1) + 1
    assert logs == []


def garbage(path: Path) -> None:
    path.write_bytes(b"no database" * 1000)


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def hole(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096 * 4)


def other_version(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 99")


def foreign(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE loads (id)")


@pytest.mark.parametrize("damage", [garbage, half, hole, other_version, foreign])
def test_a_damaged_file_is_moved_aside(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path, aside = tmp_path / "calibration.db", tmp_path / "calibration.db.broken"
    aside.write_text("of the last time")
    with opened(path) as calibration:
        for number in range(50):
            calibration.record(differed(100, file=str(number)))
    damage(path)
    damaged = path.read_bytes()
    with structlog.testing.capture_logs() as logs, opened(path) as calibration:
        assert calibration.correction("1", "settings", 1) == (0,)
        calibration.record(differed(200, file="1"))
    assert aside.read_bytes() == damaged
    assert [(line["log_level"], line["event"], line["old"]) for line in logs] == [
        ("warning", "calibration database was damaged and replaced", str(aside))
    ]
    with opened(path) as calibration:
        assert calibration.correction("1", "settings", 1) == (200,)


def test_a_log_of_the_damaged_file_does_not_come_back(tmp_path: Path) -> None:
    path = tmp_path / "calibration.db"
    path.write_text("no database")
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").write_bytes(b"old" * 1000)
    with opened(path) as calibration:
        calibration.record(load())
    with opened(path) as calibration:
        assert calibration.load_seconds("file") == 1.5


def test_an_empty_file_is_a_new_database(tmp_path: Path) -> None:
    path = tmp_path / "calibration.db"
    path.touch()
    with structlog.testing.capture_logs() as logs, opened(path) as calibration:
        calibration.record(load())
    assert count(path) == (1, 1)
    assert logs == []


def test_it_is_damaged_while_it_is_open(tmp_path: Path) -> None:
    path = tmp_path / "calibration.db"
    with structlog.testing.capture_logs() as logs, opened(path) as calibration:
        calibration.record(differed(100))
        with closing(sqlite3.connect(path)) as another:  # whose write makes the pages in memory stale
            another.execute("UPDATE loads SET seconds = 2")
            another.commit()
            another.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        path.write_bytes(b"no database" * (path.stat().st_size // 11))
        # What finds it is lost; then it goes on.
        assert calibration.correction("file", "settings", 1) == (0,)
        calibration.record(differed(200))
        assert calibration.correction("file", "settings", 1) == (200,)
    assert count(path) == (1, 1)
    assert [line["event"] for line in logs] == [
        "calibration database cannot be used",
        "calibration database was damaged and replaced",
    ]


@pytest.mark.parametrize("path", ["file/calibration.db", "file/below/calibration.db", "folder"])
def test_where_nothing_can_be_written_it_is_remembered_for_now(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with structlog.testing.capture_logs() as logs, opened(tmp_path / path) as calibration:
        calibration.record(differed(100))
        assert calibration.correction("file", "settings", 1) == (100,)
    assert [(line["log_level"], line["event"]) for line in logs] == [
        ("warning", "measured loads are kept in memory only")
    ]


def test_what_fails_has_no_effect(tmp_path: Path) -> None:
    path = tmp_path / "calibration.db"
    with structlog.testing.capture_logs() as logs, opened(path) as calibration:
        with closing(sqlite3.connect(path)) as database:
            database.execute("ALTER TABLE devices RENAME TO hidden")
        assert calibration.record(load()) == 0
        assert calibration.load_seconds("file") is None
        with closing(sqlite3.connect(path)) as database:
            database.execute("ALTER TABLE hidden RENAME TO devices")
        assert calibration.record(load()) > 0
    assert count(path) == (1, 1)
    assert {(line["log_level"], line["error"]) for line in logs} == {("warning", "no such table: devices")}


def test_a_late_word_after_the_end_is_lost(calibration: Calibration) -> None:
    calibration.close()
    with structlog.testing.capture_logs() as logs:
        assert calibration.record(load()) == 0
        assert calibration.summary() == []
        calibration.peaked(0, [GIB])
        ran_out(calibration, 1, file="file")
        calibration.remember_dry_run("key", b"value")
        assert calibration.dry_run("key") is None
        assert calibration.overhead(*CARD) == START
        assert calibration.correction("file", "settings", 1) == (0,)
    assert {line["log_level"] for line in logs} == {"warning"}
