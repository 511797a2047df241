"""The limits of one key: requests at a time, requests per minute, tokens per day. Pure."""

from collections import deque
from typing import Literal

import msgspec

from proxy.access.keys import Rights

MINUTE = 60.0
DAY = 86_400
SOON = 1.0
"""Seconds after which a request beyond `concurrent` may try again, since nobody knows when others end."""

LimitName = Literal["concurrent", "per_minute", "tokens_per_day"]


class LimitReached(msgspec.Struct, frozen=True, kw_only=True):
    """A limit that a request would exceed. `retry_after`: seconds until a request may be admitted."""

    limit: LimitName
    allowed: int
    retry_after: float


class Admission(msgspec.Struct, kw_only=True):
    """The place of an admitted request in the limits. `tokens` are reserved on `day`, in days since 1970."""

    day: int
    tokens: int
    ended: bool = False


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """What counts against a key's limits now. `minute`: requests that began in the last 60 seconds.

    `tokens`: those of today, with what running requests have reserved.
    """

    running: int
    minute: int
    tokens: int


class Limiter:
    """Counts one key's requests. `now` is in Unix seconds; days are UTC.

    Tokens are reserved at the start of a request and corrected at its end. A request that began on an
    earlier day counts on the day of its start.
    """

    def __init__(self, *, day: int = 0, used: int = 0) -> None:
        self.day = day
        """The day that `used` and `reserved` are of."""
        self.used = used
        """Tokens of ended requests on this day."""
        self.reserved = 0
        """Tokens of running requests on this day."""
        self.running = 0
        self._starts: deque[float] = deque()

    def admit(self, rights: Rights, tokens: int, now: float) -> Admission | LimitReached:
        """Admit a request that may take so many `tokens`, or return the limit that forbids it."""
        self._turn_to(now)
        if rights.concurrent is not None and self.running >= rights.concurrent:
            return LimitReached(limit="concurrent", allowed=rights.concurrent, retry_after=SOON)
        if rights.per_minute is not None and len(self._starts) >= rights.per_minute:
            wait = self._starts[-rights.per_minute] + MINUTE - now if rights.per_minute else MINUTE
            return LimitReached(limit="per_minute", allowed=rights.per_minute, retry_after=max(wait, 0.0))
        allowed = rights.tokens_per_day
        if allowed is not None and self.used + self.reserved + tokens > allowed:
            midnight = (self.day + 1) * DAY
            return LimitReached(limit="tokens_per_day", allowed=allowed, retry_after=midnight - now)
        self.running += 1
        self.reserved += tokens
        if rights.per_minute is not None:
            self._starts.append(now)
        return Admission(day=self.day, tokens=tokens)

    def use(self, now: float) -> Use:
        """Return what counts against the limits at present."""
        self._turn_to(now)
        return Use(running=self.running, minute=len(self._starts), tokens=self.used + self.reserved)

    def spend(self, tokens: int, now: float) -> None:
        """Count tokens of work that was not admitted by itself: an agent's call of a model."""
        self._turn_to(now)
        self.used += tokens

    def end(self, admission: Admission, tokens: int, now: float) -> None:
        """Replace a request's reserved tokens by the tokens that it has used. A second call has no effect."""
        if admission.ended:
            return
        admission.ended = True
        self._turn_to(now)
        self.running -= 1
        if admission.day == self.day:
            self.reserved -= admission.tokens
            self.used += tokens

    def _turn_to(self, now: float) -> None:
        day = int(now // DAY)
        if day > self.day:
            self.day, self.used, self.reserved = day, 0, 0
        while self._starts and self._starts[0] + MINUTE <= now:
            self._starts.popleft()
