"""`/admin/keys`: lists, makes, rotates and revokes API keys, as `run.py key` does."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
import structlog
from aiohttp import web

from actors.config.key_secrets import KEY_NAME, parse_expiry
from proxy.access.gate import Gate
from proxy.access.keys import SHOWN, Key, Rights, make_key, new_secret
from proxy.access.store import KeyStore, KeyStoreError
from proxy.admin.routes import Route, json_answer
from proxy.apis.requests import parse_body
from proxy.door.bodies import BODIES
from proxy.errors import ApiError
from proxy.exchange import EXCHANGE

T = TypeVar("T")

log = structlog.get_logger("access")

LOCKED_OUT = "nobody could use /admin any more: make an admin key first (`admin: true`)"

Count = Annotated[int, msgspec.Meta(ge=1, le=10**15)]
Globs = tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=200)], ...]


class NewKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of a request for a new key. `models` and `agents` are globs; `expires` is a date or a time.

    Limits that are null do not exist. `weight` is the key's share of turns.
    """

    name: str
    models: Globs = ("*",)
    agents: Globs = ("*",)
    concurrent: Count | None = None
    per_minute: Count | None = None
    tokens_per_day: Count | None = None
    weight: Annotated[float, msgspec.Meta(gt=0, le=1_000_000)] = 1.0
    expires: str | None = None
    admin: bool = False


class Left(msgspec.Struct, frozen=True, kw_only=True):
    """What is left of a key's limits at present; None where there is none."""

    concurrent: int | None
    per_minute: int | None
    tokens_per_day: int | None


class KeyView(msgspec.Struct, frozen=True, kw_only=True):
    """A key. `hint` are the last characters of its secret; `tokens_today` are of the present day (UTC).

    `configured`: it is in the configuration file, and cannot be changed here.
    """

    name: str
    hint: str
    configured: bool
    admin: bool
    models: Sequence[str]
    agents: Sequence[str]
    concurrent: int | None
    per_minute: int | None
    tokens_per_day: int | None
    weight: float
    expires_at: float | None
    running: int
    tokens_today: int
    left: Left


class KeyList(msgspec.Struct, frozen=True):
    """All keys."""

    keys: Sequence[KeyView]


class Secret(msgspec.Struct, frozen=True):
    """A key's secret, which is shown this once."""

    name: str
    secret: str


class KeyViews:
    """The handlers. `path` is the database of keys."""

    def __init__(self, gate: Gate, path: Path) -> None:
        self._gate = gate
        self._path = path

    @property
    def routes(self) -> tuple[Route, ...]:
        """The routes."""
        one = "/admin/keys/{name}"
        return (
            Route(method="GET", path="/admin/keys", handler=self.listed, answer=KeyList),
            Route(method="POST", path="/admin/keys", handler=self.add, answer=Secret, body=NewKey),
            Route(method="POST", path=f"{one}/rotate", handler=self.rotate, answer=Secret),
            Route(method="DELETE", path=one, handler=self.revoke),
        )

    async def listed(self, _request: web.Request) -> web.Response:
        """List all keys with their rights, their limits, and what is left of these."""
        return json_answer(KeyList([self._view(key) for key in self._gate.ring.by_name.values()]))

    async def add(self, request: web.Request) -> web.Response:
        """Make a key, and show its secret, once."""
        new = parse_body(await request.app[BODIES].json(request), NewKey)
        if not KEY_NAME.fullmatch(new.name):
            message = "a key's name has letters, digits and . _ @ - (64 at most)"
            raise ApiError(400, message, param="name")
        request[EXCHANGE].acts_on(new.name)
        try:
            expires = None if new.expires is None else parse_expiry(new.expires)
        except ValueError as error:
            raise ApiError(400, f"expires: {error}", param="expires") from None
        if not new.admin and not self._admins():
            raise ApiError(409, LOCKED_OUT, code="admin_key_missing")
        secret = new_secret()
        key = make_key(new.name, secret, Rights.of(new, expires=expires))
        if new.name in self._gate.ring.by_name or not await self._change(lambda store: store.add(key)):
            message = f"there is a key {new.name!r} already; rotate it to give it a new secret"
            raise ApiError(409, message, code="key_exists", param="name")
        log.info("key made", name=new.name, admin=new.admin)
        return _once(Secret(new.name, secret), status=201)

    async def rotate(self, request: web.Request) -> web.Response:
        """Give a key a new secret, and show it, once. The old one is of no use any more."""
        name, secret = self._changeable(request), new_secret()
        if not await self._change(lambda store: store.rotate(name, secret, secret[-SHOWN:])):
            raise _missing(name)
        log.info("key rotated", name=name)
        return _once(Secret(name, secret))

    async def revoke(self, request: web.Request) -> web.Response:
        """Delete a key."""
        name = self._changeable(request)
        others = [key for key in self._gate.ring.by_name.values() if key.name != name]
        if others and not self._admins(without=name):
            raise ApiError(409, LOCKED_OUT, code="admin_key_missing")
        if not await self._change(lambda store: store.revoke(name)):
            raise _missing(name)
        log.info("key revoked", name=name)
        return web.Response(status=204)

    def _admins(self, without: str = "") -> bool:
        """Whether there is an admin key besides this one."""
        keys = self._gate.ring.by_name.values()
        return any(key.rights.admin and key.name != without for key in keys)

    def _changeable(self, request: web.Request) -> str:
        name = request.match_info["name"]
        key = self._gate.ring.by_name.get(name)
        if key is None:
            raise _missing(name)
        if key.configured:
            message = f"key {name!r} is in the configuration file: change it there"
            raise ApiError(409, message, code="key_configured")
        return name

    async def _change(self, change: Callable[[KeyStore], T]) -> T:
        """Change the database, and let the gate read it."""

        def work() -> T:
            # By a connection of its own, because SQLite tells the gate only of changes by others.
            with closing(KeyStore(self._path)) as store:
                return change(store)

        try:
            done = await asyncio.to_thread(work)
        except KeyStoreError as error:
            raise ApiError(503, str(error), code="keys_unusable") from None
        await self._gate.synchronise()
        return done

    def _view(self, key: Key) -> KeyView:
        rights, use = key.rights, self._gate.use_of(key.name)
        return KeyView(
            name=key.name,
            hint=key.hint,
            configured=key.configured,
            admin=rights.admin,
            models=rights.models,
            agents=rights.agents,
            concurrent=rights.concurrent,
            per_minute=rights.per_minute,
            tokens_per_day=rights.tokens_per_day,
            weight=rights.weight,
            expires_at=rights.expires,
            running=use.running,
            tokens_today=use.tokens,
            left=Left(
                concurrent=_left(rights.concurrent, use.running),
                per_minute=_left(rights.per_minute, use.minute),
                tokens_per_day=_left(rights.tokens_per_day, use.tokens),
            ),
        )


def _left(limit: int | None, used: int) -> int | None:
    return None if limit is None else max(0, limit - used)


def _missing(name: str) -> ApiError:
    return ApiError(404, f"there is no key {name[:200]!r}", code="key_not_found")


def _once(secret: Secret, *, status: int = 200) -> web.Response:
    answer = json_answer(secret, status=status)
    answer.headers["Cache-Control"] = "no-store"
    return answer
