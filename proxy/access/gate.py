"""The gate: whose request it is, what the key may use, and whether its limits admit the request."""

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from ipaddress import ip_address
from typing import Protocol

import structlog
from aiohttp import web

from proxy.access.keys import Key, KeyRing, Rights
from proxy.access.limits import DAY, Admission, Limiter, LimitReached, Use
from proxy.access.store import KeyStore, KeyStoreError
from proxy.errors import ApiError

log = structlog.get_logger("access")

PERIOD = 1.0
"""Seconds between two looks at the database, and the most that a crash loses of the spent tokens."""
ANSWER_TOKENS = 1024
"""Tokens that are reserved for an answer without a limit of its own."""
MOST_TOKENS = 10**12
BYTES_PER_TOKEN = 4
"""Bytes of a request's body that are reserved as one token of the prompt."""

NO_KEY = (
    "{host} can be reached from other machines, so requests need a key: make one with "
    "`{program} key add NAME`, configure one under `keys`, or set `server.open: true` to serve everybody"
)
"""Why a gateway without keys does not serve other machines."""

_PROXY_HEADERS = ("forwarded", "x-forwarded-", "x-real-ip", "via")
_UNITS = {
    "concurrent": "requests at the same time",
    "per_minute": "requests per minute",
    "tokens_per_day": "tokens per day (UTC)",
}


class Limited(Protocol):
    """A request, as the gate sees it."""

    key: Key | None
    admission: Admission | None

    @property
    def tokens_spent(self) -> int | None:
        """The tokens of prompt and answer; None if unknown."""


class Weights(Mapping[str, float]):
    """The shares of turns by the names of keys, as of now."""

    def __init__(self, ring: Callable[[], KeyRing]) -> None:
        self._ring = ring

    def __getitem__(self, name: str) -> float:
        return self._ring().by_name[name].rights.weight

    def __iter__(self) -> Iterator[str]:
        return iter(self._ring().by_name)

    def __len__(self) -> int:
        return len(self._ring())


class Gate:
    """Checks keys and their limits.

    `is_open`: requests without a key are served too. `is_reachable`: other machines can connect.

    Without any key requests need none, unless other machines can connect. `configured` are the keys of the
    configuration; those in `store` are read again when they change.
    """

    def __init__(
        self,
        store: KeyStore,
        configured: Iterable[Key] = (),
        *,
        is_open: bool = False,
        is_reachable: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._configured = list(configured)
        self._stored: list[Key] = []
        self._is_open = is_open
        self.is_reachable = is_reachable
        self._clock = clock
        self._limiters: dict[str, Limiter] = {}
        self._version: object = None
        self._unsaved: set[str] = set()
        self._failing: set[str] = set()
        self.ring = KeyRing(self._configured)
        self.weights = Weights(lambda: self.ring)

    def load(self) -> None:
        """Read the keys, and the tokens spent today. Blocking. Raises `KeyStoreError`."""
        self._version = self._store.version()
        self._stored = self._store.all_keys()
        self.ring = KeyRing([*self._stored, *self._configured])
        day = int(self._clock() // DAY)
        self._limiters = {
            name: Limiter(day=day, used=tokens) for name, tokens in self._store.spent(day).items()
        }

    def reconfigure(self, configured: Iterable[Key], *, is_open: bool) -> None:
        """Take these configured keys instead. What is counted of a key goes on by its name."""
        self._configured, self._is_open = list(configured), is_open
        self.ring = KeyRing([*self._stored, *self._configured])

    def would_serve(self, configured: Iterable[Key], *, is_open: bool) -> bool:
        """Whether a gateway with these configured keys would start."""
        return is_open or not self.is_reachable or bool(self._stored or list(configured))

    async def run(self) -> None:
        """Read changed keys and save spent tokens once a second, until cancelled."""
        while True:
            await asyncio.sleep(PERIOD)
            await self.synchronise()

    async def synchronise(self) -> None:
        """Read changed keys, and save spent tokens. A failing database is logged once; the keys stay."""
        for doing, work in (("read the keys", self._read_changes), ("save spent tokens", self._save_unsaved)):
            try:
                await work()
            except KeyStoreError as error:
                if doing not in self._failing:
                    self._failing.add(doing)
                    log.warning("database of keys fails; the known keys stay", doing=doing, reason=str(error))
            else:
                if doing in self._failing:
                    self._failing.discard(doing)
                    log.info("database of keys works again", doing=doing, path=str(self._store.path))

    async def _read_changes(self) -> None:
        """Read the keys if they have changed.

        A deleted database takes no keys with it: without any key the gateway would serve everybody.
        """
        version = await asyncio.to_thread(self._store.version)
        if version == self._version:
            return
        keys = await asyncio.to_thread(self._store.all_keys)
        if version is None or version != await asyncio.to_thread(self._store.version):
            raise KeyStoreError(f"{self._store.path} was deleted or replaced while the gateway runs")
        self._stored, self._version = keys, version
        self.ring = KeyRing([*keys, *self._configured])
        log.info("keys were read again", keys=len(self.ring))

    async def _save_unsaved(self) -> None:
        if not self._unsaved:
            return
        spent = self._take_unsaved()
        try:
            await asyncio.to_thread(self._save, spent)
        except KeyStoreError:
            self._unsaved |= {name for tokens in spent.values() for name in tokens}
            raise

    def _take_unsaved(self) -> dict[int, dict[str, int]]:
        """Return the changed counts by day and key; they count as saved."""
        spent: dict[int, dict[str, int]] = {}
        for name in self._unsaved:
            limiter = self._limiters[name]
            spent.setdefault(limiter.day, {})[name] = limiter.used
        self._unsaved = set()
        return spent

    def _save(self, spent: Mapping[int, Mapping[str, int]]) -> None:
        for day, tokens in spent.items():
            self._store.save_spent(day, tokens, make=self._version is None)

    def close(self) -> None:
        """Save the spent tokens and close the database. Blocking."""
        try:
            self._save(self._take_unsaved())
        except KeyStoreError as error:
            log.warning("spent tokens are lost", reason=str(error))
        self._store.close()

    def key_named(self, name: str) -> Key | None:
        """Return the key with this name; None for no name. A key that is no more may use no model."""
        if not name:
            return None
        gone = Key(name=name, digest=b"", hint="", rights=Rights(models=()))
        return self.ring.by_name.get(name, gone)

    def use_of(self, name: str) -> Use:
        """Return what counts against the limits of a key now."""
        return self._limiter(name).use(self._clock())

    @property
    def has_keys(self) -> bool:
        """Whether there are any keys."""
        return len(self.ring) > 0

    @property
    def needs_key(self) -> bool:
        """Whether a request without a key is refused."""
        return (len(self.ring) > 0 or self.is_reachable) and not self._is_open

    def sees_all(self, key: Key | None) -> bool:
        """Whether a request with this key may see the state of the whole gateway."""
        if key is None:
            return not self.needs_key
        return key.rights.admin or key.rights.models == ("*",)

    def admit_admin(self, request: web.Request, key: Key | None) -> None:
        """Check that a request may use `/admin`. Raises `ApiError` (403).

        It needs an admin key. If there are no keys at all, it must come from this machine to a loopback
        address, and not through a proxy.
        """
        if len(self.ring):
            if key is None or not key.rights.admin:
                raise ApiError(
                    403, "this needs an admin key: `key add NAME --admin`", code="admin_key_needed"
                )
            return
        if self.is_reachable or not _is_local(request):
            message = (
                "without keys /admin answers only this machine, without a proxy: "
                "make an admin key with `key add NAME --admin`"
            )
            raise ApiError(403, message, code="admin_key_needed")

    def identify(self, headers: Mapping[str, str], *, required: bool = True) -> Key | None:
        """Return the key of a request; None if it has none and needs none. Raises `ApiError` (401)."""
        if not len(self.ring) and not self.needs_key:
            return None
        secret = _secret_of(headers)
        key = self.ring.find(secret, self._clock()) if secret else None
        if key is not None or self._is_open or not required:
            return key
        if secret:
            raise ApiError(401, "the API key is wrong, expired or revoked", code="invalid_api_key")
        message = "an API key is needed: send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'"
        raise ApiError(401, message, code="missing_api_key")

    def admit(
        self, request: Limited, body_bytes: int, answer_limit: float | None, answers: float = 1
    ) -> None:
        """Admit a request to a model within the limits of its key. Raises `ApiError` (429).

        The prompt is estimated by the bytes of the body. `answer_limit`: the most tokens of each of so many
        `answers`; None: the request sets no limit.
        """
        key = request.key
        if key is None or request.admission is not None:
            return
        answer = ANSWER_TOKENS if answer_limit is None or not answer_limit >= 0 else answer_limit
        tokens = body_bytes // BYTES_PER_TOKEN + int(min(answer * max(answers, 1), MOST_TOKENS))
        found = self._limiter(key.name).admit(key.rights, tokens, self._clock())
        if isinstance(found, LimitReached):
            raise _refusal(key, found)
        request.admission = found

    def settle(self, request: Limited) -> None:
        """Count the tokens of a finished request, or of an agent's call of a model."""
        key = request.key
        if key is None:
            return
        admission, tokens = request.admission, request.tokens_spent
        if tokens is None:
            # An agent's call reserves nothing, and it is not free because the client left.
            tokens = ANSWER_TOKENS if admission is None else admission.tokens
        tokens = min(max(tokens, 0), MOST_TOKENS)  # a model server may report anything
        if admission is not None:
            self._limiter(key.name).end(admission, tokens, self._clock())
        elif tokens:
            self._limiter(key.name).spend(tokens, self._clock())
        if tokens:
            self._unsaved.add(key.name)

    def _limiter(self, name: str) -> Limiter:
        limiter = self._limiters.get(name)
        if limiter is None:
            limiter = self._limiters[name] = Limiter()
        return limiter


GATE = web.AppKey("gate", Gate)
"""The application's gate."""


def _is_local(request: web.Request) -> bool:
    transport = request.transport
    if transport is None or any(name.lower().startswith(_PROXY_HEADERS) for name in request.headers):
        return False
    peer = transport.get_extra_info("peername")
    try:
        return ip_address(str(peer[0]).partition("%")[0]).is_loopback
    except (ValueError, TypeError, IndexError):
        return False


def _secret_of(headers: Mapping[str, str]) -> str:
    scheme, _, secret = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and secret.strip():
        return secret.strip()
    return headers.get("x-api-key", "").strip()


def _refusal(key: Key, reached: LimitReached) -> ApiError:
    unit = _UNITS[reached.limit]
    message = f"key {key.name!r} has reached its limit {reached.limit}: {reached.allowed:,} {unit}"
    error = ApiError(
        429, message, code="rate_limit_exceeded", retry_after=max(1, math.ceil(reached.retry_after))
    )
    error.extra = {"limit": reached.limit}
    return error
