"""What loads really took, remembered in SQLite, so that the next prediction is better.

A prediction is llama.cpp's buffers, by the byte where their graph is known, and nothing of what CUDA takes
beside them. Two figures are learned:

    what it will take on a card = predicted + correction (this file, these settings) + overhead (this card)

All of this is blocking, and may be called from any thread. Nothing of it raises for a database that fails:
without memory the gateway predicts as on its first day.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from statistics import median
from threading import Lock
from typing import Any

import msgspec
import structlog

from actors.gpu.calibration_file import connect, is_damage, move_aside
from actors.placement.ledger import GROWTH

log = structlog.get_logger("calibration")

CALIBRATION = "calibration.sqlite3"
"""The name of its file."""

MIB = 1 << 20

START = 500 * MIB
"""Overhead of a card that nobody knows. Public logs have 107 to 560 MiB, and growth on top of that."""

LEAST = 64 * MIB
"""No CUDA process takes less."""

ENOUGH = 5
"""Loads after which a card, with this driver and build, is known."""

RECENT = 50
"""Loads that an overhead is learned from."""

ROUNDING = MIB
"""llama.cpp's log tells of each of its buffers in hundredths of a MiB."""

OTHERS = 10
"""Loads of a file in other ways, or unmeasured, after which a way is tried without its surcharge again."""

RESIDUALS = """
SELECT max(
    CASE WHEN peak IS NULL THEN measured + :growth ELSE max(peak, coalesce(measured, 0)) END
    - coalesce(buffers, predicted)
)
FROM devices JOIN loads ON loads.id = devices.load
WHERE gpu = :gpu AND coalesce(peak, measured) IS NOT NULL
    AND (:any OR (driver = :driver AND build = :build))
GROUP BY devices.load ORDER BY devices.load DESC LIMIT :recent
"""

DIFFERENCES = """
SELECT loads.id, buffers - predicted, certainty = 'exact'
FROM loads JOIN devices ON devices.load = loads.id
WHERE file = ? AND settings = ? ORDER BY loads.id DESC, position
"""

BY_CARD = """
SELECT gpu, driver, build, load, predicted, reserved, buffers,
    max(coalesce(peak, measured), coalesce(measured, peak))
FROM devices JOIN loads ON loads.id = devices.load ORDER BY gpu, driver, build
"""


LAST_LOADS = "SELECT * FROM loads WHERE id IN (SELECT max(id) FROM loads GROUP BY model)"

DEVICES = (
    "SELECT gpu, driver, predicted, buffers, measured, peak FROM devices WHERE load = ? ORDER BY position"
)


class DeviceLoad(msgspec.Struct, frozen=True, kw_only=True):
    """What a load took on one card: bytes, None or 0 where nobody told.

    `predicted` is of llama.cpp's buffers alone, before any correction; `buffers` is the same by llama.cpp's
    log. `measured` is NVML's figure for the process after the load, `peak` the highest until now.
    """

    gpu: str
    driver: str
    predicted: int
    buffers: int | None = None
    measured: int | None = None
    peak: int | None = None


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """A load that succeeded, in `seconds`.

    `file` and `settings` are opaque: the file's identity; and all that the buffers depend on beside it, the
    way it was placed included. `build` is the model server's version, `certainty` the prediction's.
    """

    model: str
    file: str
    settings: str
    build: str
    certainty: str
    seconds: float
    devices: tuple[DeviceLoad, ...]
    host_predicted: int
    host_buffers: int | None = None


class Surcharge(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of each GPU that loads get more because memory ran out: of this file, with these settings.

    `model` had it, whose files were at `paths`; both are empty where that was not told.
    """

    file: str
    settings: str
    bytes: int
    model: str = ""
    paths: tuple[str, ...] = ()


class Accuracy(msgspec.Struct, frozen=True, kw_only=True):
    """How far predictions were off: parts of what it really was, either way; and bytes too few, at worst."""

    median: float
    largest: float
    worst_under: int


class CardAccuracy(msgspec.Struct, frozen=True, kw_only=True):
    """How accurate predictions were on one model of GPU, with one driver and one build of llama.cpp.

    `buffers` compares the predictions with the buffers in llama.cpp's log; `measured` compares what was set
    aside for each load, correction and overhead included, with the most that NVML reported. None: no figures.
    """

    gpu: str
    driver: str
    build: str
    loads: int
    overhead: int
    buffers: Accuracy | None
    measured: Accuracy | None


class Calibration:
    """The memory of loads: a file, or only this run's where there is none or it cannot be written."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = Lock()
        self._connection = self._open()

    def close(self) -> None:
        """Write no more. What is told afterwards is lost, and what is asked is unknown."""
        with self._lock:
            self._connection.close()

    # Loads

    def record(self, load: Load) -> int:
        """Remember a load, when it has succeeded; return its number, for `peaked`."""
        corrections = self.correction(load.file, load.settings, len(load.devices))
        reserved = [
            device.predicted + correction + self.overhead(device.gpu, device.driver, load.build)
            for device, correction in zip(load.devices, corrections, strict=True)
        ]
        fields = msgspec.structs.asdict(load)
        with self._database() as database:
            number = database.execute(
                "INSERT INTO loads"
                " (model, file, settings, build, certainty, seconds, host_predicted, host_buffers) VALUES"
                " (:model, :file, :settings, :build, :certainty, :seconds, :host_predicted, :host_buffers)",
                {name: value for name, value in fields.items() if name != "devices"},
            ).lastrowid
            database.executemany(
                "INSERT INTO devices VALUES"
                " (:load, :position, :gpu, :driver, :predicted, :reserved, :buffers, :measured, :peak)",
                [
                    {
                        **msgspec.structs.asdict(device),
                        "load": number,
                        "position": position,
                        "reserved": reserved[position],
                        # What has no figure, NVML may call 0.
                        "measured": device.measured or None,
                        "peak": device.peak or None,
                    }
                    for position, device in enumerate(load.devices)
                ],
            )
            is_measured = all(device.measured for device in load.devices)
            if is_measured:
                of_this = (load.file, load.settings)
                database.execute(
                    "UPDATE surcharges SET successes = successes + 1 WHERE file = ? AND settings = ?", of_this
                )
            # It runs in other ways meanwhile, or nobody measures it: some day it is worth another try.
            database.execute(
                "UPDATE surcharges SET others = others + 1 WHERE file = ? AND (settings != ? OR NOT ?)",
                (load.file, load.settings, is_measured),
            )
            database.execute("DELETE FROM surcharges WHERE successes >= 2 OR others >= ?", (OTHERS,))
            database.commit()  # here, because the number of one that is lost goes to the next
            return number or 0
        return 0

    def peaked(self, number: int, peaks: Sequence[int | None]) -> None:
        """The bytes that NVML told at most of each device of a load: at its end, or each time that it grew.

        From then on it is not expected to grow by `GROWTH`.
        """
        with self._database() as database:
            database.executemany(
                "UPDATE devices SET peak = max(coalesce(peak, 0), ?) WHERE load = ? AND position = ?",
                [(peak, number, position) for position, peak in enumerate(peaks) if peak],
            )

    def ran_out(self, surcharge: Surcharge) -> None:
        """This load, or its process, ran out of memory: the next gets so many bytes more on each device.

        It ran out in spite of the surcharges before, so they add up.
        """
        fields = msgspec.structs.asdict(surcharge)
        with self._database() as database:
            database.execute(
                "INSERT INTO surcharges (file, settings, bytes, model, paths)"
                " VALUES (:file, :settings, :bytes, :model, :paths)"
                " ON CONFLICT (file, settings) DO UPDATE SET bytes = bytes + excluded.bytes, successes = 0,"
                " others = 0, model = excluded.model, paths = excluded.paths",
                {**fields, "paths": msgspec.json.encode(surcharge.paths).decode()},
            )

    def surcharges(self) -> list[Surcharge]:
        """All that are remembered, of whatever gateway on this machine."""
        rows = self._rows("SELECT file, settings, bytes, model, paths FROM surcharges ORDER BY rowid")
        return [
            Surcharge(
                file=file,
                settings=settings,
                bytes=size,
                model=model,
                paths=msgspec.json.decode(paths, type=tuple[str, ...]) if paths else (),
            )
            for file, settings, size, model, paths in rows
        ]

    def forgive(self, surcharge: Surcharge) -> None:
        """Forget that memory ran out there."""
        with self._database() as database:
            database.execute(
                "DELETE FROM surcharges WHERE file = ? AND settings = ?", (surcharge.file, surcharge.settings)
            )

    # What they teach

    def overhead(self, gpu: str, driver: str, build: str) -> int:
        """Bytes that a process takes on such a card beside llama.cpp's buffers, growth under work included.

        A load's figure is its peak beyond its buffers, on the card of this kind where that was most. While
        its peak is not known it may yet grow, by `GROWTH`; 5 % of the compute buffer, where that is more, is
        left to the peaks. Of the last `RECENT` figures their 99th percentile is taken, which of so few is the
        largest. Until there are `ENOUGH` with this driver and build, those with any other count too, and
        it is at least `START`: a small card's context with its growth.
        """
        own = self._residuals(gpu, driver, build, any_build=False)
        if len(own) >= ENOUGH:
            return max([LEAST, *own])
        return max([START, *own, *self._residuals(gpu, driver, build, any_build=True)])

    def _residuals(self, gpu: str, driver: str, build: str, *, any_build: bool) -> list[int]:
        keys = {"gpu": gpu, "driver": driver, "build": build, "any": any_build}
        rows = self._rows(RESIDUALS, {**keys, "growth": GROWTH, "recent": RECENT})
        return [residual for (residual,) in rows]

    def correction(self, file: str, settings: str, devices: int) -> tuple[int, ...]:
        """Signed bytes to add to the prediction for each of so many devices; zeros where nothing is known.

        By all the loads of just this that are remembered, with as many devices and all their buffers told.
        Too little is worse than too much: of what was too little the most is added, of what was always too
        much half of the least is taken off, and nothing is taken off where memory ran out. Exact predictions
        are never made smaller.

        A surcharge for memory that ran out is in it until two later loads were measured, and then their
        figures rule; or until `OTHERS` loads of the file had other settings, ran in another way, or could not
        be measured.
        """
        of_this = (file, settings)
        loads = groupby(self._rows(DIFFERENCES, of_this), key=itemgetter(0))
        differences = [[_difference(*row) for _, *row in rows] for _, rows in loads]
        usable = [load for load in differences if len(load) == devices and None not in load]
        worst: list[Any] = [max(device) for device in zip(*usable, strict=True)] or [0] * devices
        if surcharge := self.surcharge(file, settings):
            return tuple(max(0, difference) + surcharge for difference in worst)
        return tuple(difference if difference > 0 else -(-difference // 2) for difference in worst)

    def surcharge(self, file: str, settings: str) -> int:
        """Bytes of each device that are in the correction because memory ran out."""
        found = self._rows("SELECT bytes FROM surcharges WHERE file = ? AND settings = ?", (file, settings))
        return int(found[0][0]) if found else 0

    def load_seconds(self, file: str) -> float | None:
        """How long a load of this file will take: the median of the last nine."""
        rows = self._rows("SELECT seconds FROM loads WHERE file = ? ORDER BY id DESC LIMIT 9", (file,))
        return median(seconds for (seconds,) in rows) if rows else None

    def last_loads(self) -> dict[str, Load]:
        """The last load of each model, by the model's name."""
        loads = {}
        for number, model, file, settings, build, certainty, seconds, host, buffers in self._rows(LAST_LOADS):
            devices = self._rows(DEVICES, (number,))
            loads[model] = Load(
                model=model,
                file=file,
                settings=settings,
                build=build,
                certainty=certainty,
                seconds=seconds,
                devices=tuple(_device_load(*device) for device in devices),
                host_predicted=host,
                host_buffers=buffers,
            )
        return loads

    def summary(self) -> list[CardAccuracy]:
        """What is known of each card, driver and build, for people. Reads all there is."""
        cards = []
        for (gpu, driver, build), group in groupby(self._rows(BY_CARD), key=itemgetter(0, 1, 2)):
            rows = list(group)
            cards.append(
                CardAccuracy(
                    gpu=gpu,
                    driver=driver,
                    build=build,
                    loads=len({row[3] for row in rows}),
                    overhead=self.overhead(gpu, driver, build),
                    buffers=_accuracy([(row[4], row[6]) for row in rows]),
                    measured=_accuracy([(row[5], row[7]) for row in rows]),
                )
            )
        return cards

    # Dry runs

    def dry_run(self, key: str) -> bytes | None:
        """What was remembered by this key."""
        rows = self._rows("SELECT value FROM dry_runs WHERE key = ?", (key,))
        return rows[0][0] if rows else None

    def remember_dry_run(self, key: str, value: bytes) -> None:
        """Remember what a dry run told, opaque; the oldest of a thousand makes room."""
        with self._database() as database:
            database.execute("INSERT OR REPLACE INTO dry_runs VALUES (?, ?)", (key, value))

    # The database

    def _rows(self, query: str, values: Sequence[Any] | dict[str, Any] = ()) -> list[Any]:
        with self._database() as database:
            return database.execute(query, values).fetchall()
        return []

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        """One transaction. If it fails that is logged, the block is left, and it had no effect."""
        with self._lock:
            try:
                yield self._connection
                self._connection.commit()
            except sqlite3.Error as error:
                log.warning("what loads took cannot be read or written now", error=str(error))
                if is_damage(error):
                    self._connection.close()
                    self._connection = self._open()
            finally:
                with suppress(sqlite3.Error):  # a closed one has nothing to take back
                    self._connection.rollback()

    def _open(self) -> sqlite3.Connection:
        if self._path is None:
            return connect(":memory:")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            try:
                return connect(self._path)
            except sqlite3.DatabaseError as error:
                if not is_damage(error):
                    raise
                aside = move_aside(self._path)
                log.warning("what loads took is begun anew", error=str(error), old=str(aside))
                return connect(self._path)
        except (OSError, sqlite3.Error) as error:
            log.warning("what loads took will be forgotten", path=str(self._path), error=str(error))
            return connect(":memory:")


def _device_load(
    gpu: str, driver: str, predicted: int, buffers: int | None, measured: int | None, peak: int | None
) -> DeviceLoad:
    return DeviceLoad(
        gpu=gpu, driver=driver, predicted=predicted, buffers=buffers, measured=measured, peak=peak
    )


def _difference(difference: int | None, is_exact: bool) -> int | None:
    return 0 if is_exact and difference is not None and difference < ROUNDING else difference


def _accuracy(pairs: list[tuple[int, int | None]]) -> Accuracy | None:
    """Of predictions and what it really was."""
    known = [(predicted, actual) for predicted, actual in pairs if actual is not None]
    if not known:
        return None
    errors = [abs(predicted - actual) / max(1, actual) for predicted, actual in known]
    under = max(actual - predicted for predicted, actual in known)
    return Accuracy(median=median(errors), largest=max(errors), worst_under=max(0, under))
