"""API keys and their rights. Pure."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from fnmatch import translate
from functools import lru_cache
from typing import Self

import msgspec

PREFIX = "lsp-"
"""The beginning of every secret that the gateway makes, by which scanners of leaked secrets can find one."""
LATEST = ":latest"
"""Ollama's tag of a model's name that has none."""
SECRET_BYTES = 32
"""Random bytes of a secret."""
SHOWN = 4
"""Last characters of a secret that lists show, so that people can tell secrets apart."""


class Rights(msgspec.Struct, frozen=True, kw_only=True):
    """The rights and limits of a key. None: no limit.

    `models` and `agents` are globs of names. `concurrent`: requests at a time; `per_minute`: requests in any
    60 seconds; `tokens_per_day`: tokens of prompts and answers on one day (UTC). `weight`: the share of
    turns when keys compete. `expires`: Unix seconds.
    """

    models: tuple[str, ...] = ("*",)
    agents: tuple[str, ...] = ("*",)
    concurrent: int | None = None
    per_minute: int | None = None
    tokens_per_day: int | None = None
    weight: float = 1.0
    expires: float | None = None
    admin: bool = False

    @classmethod
    def of(cls, source: object, *, expires: float | None) -> Self:
        """Make rights of an object that has the other fields as attributes."""
        fields = {name: getattr(source, name) for name in cls.__struct_fields__}
        return msgspec.convert({**fields, "expires": expires}, cls)

    def may_use_model(self, names: Iterable[str]) -> bool:
        """Whether one of a model's names is allowed. Letter case and Ollama's `:latest` do not matter."""
        return self.models == ("*",) or any(
            _matches(name, self.models) or _matches(name.removesuffix(LATEST), self.models) for name in names
        )

    def may_use_agent(self, name: str) -> bool:
        """Whether requests may name this agent."""
        return self.agents == ("*",) or _matches(name, self.agents)


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """A key. Of its secret only the SHA-256 digest and the last characters are kept."""

    name: str
    digest: bytes
    hint: str
    rights: Rights = Rights()
    configured: bool = False
    """Whether it is from the configuration, and not from the database."""


def digest_of(secret: str) -> bytes:
    """Return the digest by which a secret is stored. Secrets are random, so no slow hash is needed.

    A header may have bytes that are no UTF-8; aiohttp keeps them as surrogates.
    """
    return hashlib.sha256(secret.encode(errors="surrogateescape")).digest()


def new_secret() -> str:
    """Make a secret."""
    return PREFIX + secrets.token_urlsafe(SECRET_BYTES)


def make_key(name: str, secret: str, rights: Rights, *, configured: bool = False) -> Key:
    """Make the key of a secret."""
    return Key(
        name=name, digest=digest_of(secret), hint=secret[-SHOWN:], rights=rights, configured=configured
    )


class KeyRing:
    """All keys, found by secret."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self.by_name = {key.name: key for key in keys}
        self._by_digest = {key.digest: key for key in self.by_name.values()}

    def __len__(self) -> int:
        return len(self.by_name)

    def find(self, secret: str, now: float) -> Key | None:
        """Return the key with this secret; None if there is none or it has expired.

        The digest is looked up, not the secret, and then compared in constant time, so that the time says
        nothing about other secrets.
        """
        digest = digest_of(secret)
        key = self._by_digest.get(digest)
        if key is None or not hmac.compare_digest(key.digest, digest):
            return None
        return None if key.rights.expires is not None and key.rights.expires <= now else key


def _matches(name: str, globs: tuple[str, ...]) -> bool:
    return _pattern(globs).match(name.casefold()) is not None


@lru_cache(maxsize=16_384)
def _pattern(globs: tuple[str, ...]) -> re.Pattern[str]:
    """Compile globs, since a key's are needed with each of its requests."""
    return re.compile("|".join(translate(glob.casefold()) for glob in globs) or r"(?!)")
