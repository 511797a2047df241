"""The progress of a download, and its reports to a callback and the log."""

import time
from collections.abc import Callable, Mapping

import msgspec

LOG_STEP = 0.1
"""Share of the download after which a log line is written; at the latest after `LOG_SECONDS`."""
LOG_SECONDS = 30.0


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """The progress of a download, in bytes; and its rate in bytes per second, if known."""

    have: int
    total: int
    rate: float | None = None

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the end at the present rate; None if unknown."""
        return (self.total - self.have) / self.rate if self.rate else None

    def __str__(self) -> str:
        share = 100 * self.have / self.total if self.total else 100.0
        left = f", {self.seconds_left:.0f} s left" if self.seconds_left is not None else ""
        return f"{share:.0f} % of {readable_size(self.total)}{left}"


OnProgress = Callable[[Progress], None]


class Reporter:
    """Adds up the parts of a download and reports progress: to the callback, and in larger steps to the log.

    `sizes`: bytes of the parts known beforehand. `log` is None if the caller logs by itself.
    """

    def __init__(
        self, on_progress: OnProgress, log: OnProgress | None = None, sizes: Mapping[str, int] | None = None
    ) -> None:
        self._on_progress = on_progress
        self._log = log
        self._sizes = dict(sizes or {})
        self._have: dict[str, int] = {}
        self._speed = _Speedometer()
        self._logged_share = 0.0
        self._logged_at = time.monotonic()

    @property
    def parts(self) -> int:
        """The number of parts known so far."""
        return len(self._sizes)

    @property
    def total(self) -> int:
        """Bytes of all parts."""
        return sum(self._sizes.values())

    def at(self, part: str, have: int, size: int | None = None) -> None:
        """Note how many bytes of a part have arrived."""
        self._have[part] = have
        self._sizes[part] = max(have, self._sizes.get(part, 0) if size is None else size)
        done, total = sum(self._have.values()), self.total
        progress = Progress(have=done, total=total, rate=self._speed.rate(done))
        self._on_progress(progress)
        share = done / total if total else 1.0
        if self._log is None:
            return
        if share >= self._logged_share + LOG_STEP or time.monotonic() > self._logged_at + LOG_SECONDS:
            self._logged_share, self._logged_at = share, time.monotonic()
            self._log(progress)

    def whole(self, part: str) -> None:
        """Note that a part is complete, if it had to be downloaded."""
        if part in self._sizes:
            self.at(part, self._sizes[part])


class _Speedometer:
    """Computes bytes per second over the last seconds from a growing count."""

    def __init__(self) -> None:
        self._samples: list[tuple[float, int]] = []

    def rate(self, have: int) -> float | None:
        """Add a sample and return the rate; None until there are two samples."""
        now = time.monotonic()
        self._samples.append((now, have))
        while len(self._samples) > 2 and now - self._samples[0][0] > 10:
            del self._samples[0]
        (since, before) = self._samples[0]
        return (have - before) / (now - since) if now > since and have >= before else None


def readable_size(count: int) -> str:
    """Write a number of bytes for people, such as 4.1 GiB."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
