"""How far a download is, and who is told."""

import time
from collections.abc import Callable

import msgspec
import structlog

from actors.model_names import RepoFile

log = structlog.get_logger("hub")

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
    """Adds up the files of a model, and tells of it: to the callback always, to the log at sensible steps."""

    def __init__(self, repo: str, label: str, missing: list[RepoFile], on_progress: OnProgress) -> None:
        self._repo = repo
        self._label = label
        self._on_progress = on_progress
        self._have = dict.fromkeys((file.path for file in missing), 0)
        self._total = sum(file.size for file in missing)
        self._speed = Speedometer()
        self._logged_share = 0.0
        self._logged_at = time.monotonic()

    def at(self, file: RepoFile, have: int) -> None:
        """So many bytes of this file are there."""
        self._have[file.path] = have
        done = sum(self._have.values())
        progress = Progress(have=done, total=self._total, rate=self._speed.rate(done))
        self._on_progress(progress)
        share = done / self._total if self._total else 1.0
        if share >= self._logged_share + LOG_STEP or time.monotonic() > self._logged_at + LOG_SECONDS:
            self._logged_share, self._logged_at = share, time.monotonic()
            log.info("downloading", repo=self._repo, variant=self._label, progress=str(progress), bytes=done)


class Speedometer:
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
