"""How far a download is, and who is told."""

import time
from collections.abc import Callable, Mapping

import msgspec

LOG_STEP = 0.1
"""Share of the whole after which the log is told, or else after `LOG_SECONDS`."""
LOG_SECONDS = 30.0


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a download is; bytes, and bytes per second when it is known."""

    have: int
    total: int
    rate: float | None = None

    @property
    def seconds_left(self) -> float | None:
        """At the present rate."""
        return (self.total - self.have) / self.rate if self.rate else None

    def __str__(self) -> str:
        share = 100 * self.have / self.total if self.total else 100.0
        left = f", {self.seconds_left:.0f} s left" if self.seconds_left is not None else ""
        return f"{share:.0f} % of {readable_size(self.total)}{left}"


OnProgress = Callable[[Progress], None]


class Reporter:
    """Adds up the parts of a download, and tells of it: to the callback always, to the log at sensible steps.

    `sizes`: of the parts that are known before. `log` is None where somebody else writes one.
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
        """How many there are, as far as it is known."""
        return len(self._sizes)

    @property
    def total(self) -> int:
        """Bytes of all of them."""
        return sum(self._sizes.values())

    def at(self, part: str, have: int, size: int | None = None) -> None:
        """So many bytes of this part are there."""
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
        """This part is there, if it was downloaded at all."""
        if part in self._sizes:
            self.at(part, self._sizes[part])


class _Speedometer:
    """Bytes per second over the last seconds, from a count that grows."""

    def __init__(self) -> None:
        self._samples: list[tuple[float, int]] = []

    def rate(self, have: int) -> float | None:
        """Take a sample; the rate is None until there are two of them."""
        now = time.monotonic()
        self._samples.append((now, have))
        while len(self._samples) > 2 and now - self._samples[0][0] > 10:
            del self._samples[0]
        (since, before) = self._samples[0]
        return (have - before) / (now - since) if now > since and have >= before else None


def readable_size(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
