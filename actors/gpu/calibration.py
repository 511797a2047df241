"""Remembers in SQLite how much memory loads took, and corrects the next predictions.

A prediction covers llama.cpp's buffers, exact to the byte where their graph is known, but not the memory that
CUDA takes besides. Two figures are learned:

    memory on a card = predicted + correction (this file, these settings) + overhead (this card)

All functions block, and may be called from any thread. None raises when the database fails: without
it the gateway predicts as on its first day.
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
"""The name of the database file."""

MIB = 1 << 20

START = 500 * MIB
"""Overhead of an unknown card. Public logs show 107 to 560 MiB, and growth on top of that."""

LEAST = 64 * MIB
"""Least overhead: no CUDA process takes less."""

ENOUGH = 5
"""Number of loads after which a card with its driver and build counts as known."""

RECENT = 50
"""Number of latest loads from which an overhead is learned."""

ROUNDING = MIB
"""llama.cpp's log rounds the size of each buffer to hundredths of a MiB."""

OTHERS = 10
"""Number of loads of a file in other ways, or unmeasured, after which a surcharge is dropped."""

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
    """The memory of a load on one card, in bytes; None or 0 where unknown.

    `predicted` covers llama.cpp's buffers alone, before any correction; `buffers` is their size in
    llama.cpp's log. `measured` is NVML's figure for the process after the load, `peak` the highest one since.
    """

    gpu: str
    driver: str
    predicted: int
    buffers: int | None = None
    measured: int | None = None
    peak: int | None = None


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """A successful load, which took `seconds`.

    `file` and `settings` are opaque keys: the file's identity, and everything else that the buffers depend
    on, the placement included. `build` is the model server's version, `certainty` the prediction's.
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
    """Additional bytes per GPU for loads of this file with these settings, because memory ran out.

    `model` is the model to which it happened, `paths` its files; both are empty if unknown.
    """

    file: str
    settings: str
    bytes: int
    model: str = ""
    paths: tuple[str, ...] = ()


class Accuracy(msgspec.Struct, frozen=True, kw_only=True):
    """Errors of predictions: as parts of the real size, in both directions; and the most bytes too few."""

    median: float
    largest: float
    worst_under: int


class CardAccuracy(msgspec.Struct, frozen=True, kw_only=True):
    """How accurate predictions were on one model of GPU, with one driver and one build of llama.cpp.

    `buffers` compares predictions with the buffers in llama.cpp's log; `measured` compares the reserved
    memory, correction and overhead included, with the most that NVML reported. None: no figures.
    """

    gpu: str
    driver: str
    build: str
    loads: int
    overhead: int
    buffers: Accuracy | None
    measured: Accuracy | None


class Calibration:
    """The database of loads: a file, or in memory if there is no file or it cannot be written."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = Lock()
        self._connection = self._open()

    def close(self) -> None:
        """Close the database. Later records are lost, and later questions have no answer."""
        with self._lock:
            self._connection.close()

    # Loads

    def record(self, load: Load) -> int:
        """Record a successful load; return its number, for `peaked`."""
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
                        # NVML may report 0 for an unknown figure.
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
            # The model has run in other ways since, or unmeasured: the surcharge is worth another try.
            database.execute(
                "UPDATE surcharges SET others = others + 1 WHERE file = ? AND (settings != ? OR NOT ?)",
                (load.file, load.settings, is_measured),
            )
            database.execute("DELETE FROM surcharges WHERE successes >= 2 OR others >= ?", (OTHERS,))
            database.commit()  # only now, because the number of a lost record goes to the next one
            return number or 0
        return 0

    def peaked(self, number: int, peaks: Sequence[int | None]) -> None:
        """Record the most bytes that NVML reported for each device of a load, at its end or when they grew.

        From then on the load is not expected to grow by `GROWTH`.
        """
        with self._database() as database:
            database.executemany(
                "UPDATE devices SET peak = max(coalesce(peak, 0), ?) WHERE load = ? AND position = ?",
                [(peak, number, position) for position, peak in enumerate(peaks) if peak],
            )

    def ran_out(self, surcharge: Surcharge) -> None:
        """Record that a load, or its process, ran out of memory: the next one gets `surcharge` per device.

        The load failed in spite of earlier surcharges, so they add up.
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
        """Return all recorded surcharges, of any gateway on this machine."""
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
        """Delete a surcharge."""
        with self._database() as database:
            database.execute(
                "DELETE FROM surcharges WHERE file = ? AND settings = ?", (surcharge.file, surcharge.settings)
            )

    # What they teach

    def overhead(self, gpu: str, driver: str, build: str) -> int:
        """Return the bytes that a process takes on such a card besides llama.cpp's buffers, with its growth.

        A load's figure is its peak minus its buffers, on the card of this kind where the difference was
        largest. Without a known peak, `GROWTH` is added. The result is the 99th percentile of the last
        `RECENT` figures, which is the largest of so few. Until there are `ENOUGH` figures with this driver
        and build, figures of other drivers and builds count too, and the result is at least `START`.
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
        """Return signed bytes to add to the prediction for each of `devices`; zeros if nothing is known.

        The correction uses all recorded loads of this file with these settings and as many devices, if all
        their buffers were reported. Too little is worse than too much: the largest shortfall is added; of an
        excess in all loads, half of the smallest is subtracted, and nothing after memory ran out. Exact
        predictions are never made smaller.

        A surcharge is included until two later loads were measured, whose figures then count, or until
        `OTHERS` loads of the file had other settings, ran in another way, or could not be measured.
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
        """Return the part of the correction, in bytes per device, that is there because memory ran out."""
        found = self._rows("SELECT bytes FROM surcharges WHERE file = ? AND settings = ?", (file, settings))
        return int(found[0][0]) if found else 0

    def load_seconds(self, file: str) -> float | None:
        """Return the expected seconds of a load of this file: the median of the last nine."""
        rows = self._rows("SELECT seconds FROM loads WHERE file = ? ORDER BY id DESC LIMIT 9", (file,))
        return median(seconds for (seconds,) in rows) if rows else None

    def last_loads(self) -> dict[str, Load]:
        """Return the last load of each model, by the model's name."""
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
        """Return the accuracy for each card, driver and build, for people. Reads the whole database."""
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
        """Return the dry run recorded under this key."""
        rows = self._rows("SELECT value FROM dry_runs WHERE key = ?", (key,))
        return rows[0][0] if rows else None

    def remember_dry_run(self, key: str, value: bytes) -> None:
        """Record the result of a dry run, opaque; beyond a thousand the oldest is dropped."""
        with self._database() as database:
            database.execute("INSERT OR REPLACE INTO dry_runs VALUES (?, ?)", (key, value))

    # The database

    def _rows(self, query: str, values: Sequence[Any] | dict[str, Any] = ()) -> list[Any]:
        with self._database() as database:
            return database.execute(query, values).fetchall()
        return []

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        """Run a transaction. If it fails, log that, leave the block, and change nothing."""
        with self._lock:
            try:
                yield self._connection
                self._connection.commit()
            except sqlite3.Error as error:
                log.warning("calibration database cannot be used", error=str(error))
                if is_damage(error):
                    self._connection.close()
                    self._connection = self._open()
            finally:
                with suppress(sqlite3.Error):  # a closed connection has nothing to roll back
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
                log.warning("calibration database was damaged and replaced", error=str(error), old=str(aside))
                return connect(self._path)
        except (OSError, sqlite3.Error) as error:
            log.warning("measured loads are kept in memory only", path=str(self._path), error=str(error))
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
    """Compare pairs of predicted and real sizes."""
    known = [(predicted, actual) for predicted, actual in pairs if actual is not None]
    if not known:
        return None
    errors = [abs(predicted - actual) / max(1, actual) for predicted, actual in known]
    under = max(actual - predicted for predicted, actual in known)
    return Accuracy(median=median(errors), largest=max(errors), worst_under=max(0, under))
