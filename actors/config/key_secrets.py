"""The secrets and dates of configured API keys."""

import re
from datetime import UTC, date, datetime, time
from pathlib import Path

from actors.config.schema import KeySettings

SHORTEST_SECRET = 16
"""Least characters of a secret."""
LONGEST_SECRET = 512
_USABLE = re.compile(r"[!-~]+")
KEY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


def read_secret(key: KeySettings) -> str:
    """Return a configured key's secret. Raises `ValueError`. Reads its file, if it has one."""
    if (key.secret is None) == (key.secret_file is None):
        raise ValueError("give one of secret and secret_file")
    if key.secret is not None:
        return checked_secret(key.secret)
    path = Path(str(key.secret_file))
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise ValueError(f"secret_file: {path} cannot be read: {reason}") from None
    return checked_secret(text)


def checked_secret(secret: str) -> str:
    """Return the secret. Raises `ValueError` if it is too short or cannot be sent in a header."""
    if not SHORTEST_SECRET <= len(secret) <= LONGEST_SECRET:
        raise ValueError(f"a secret has {SHORTEST_SECRET} to {LONGEST_SECRET} characters, not {len(secret)}")
    if not _USABLE.fullmatch(secret):
        raise ValueError("a secret has only printable ASCII characters and no space")
    return secret


def parse_expiry(text: str) -> float:
    """Return the Unix seconds at which a key expires: at the end of a date, or at a time. UTC is the default.

    Raises `ValueError`.
    """
    try:
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
            return datetime.combine(date.fromisoformat(text), time.max, UTC).timestamp()
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"expected a date such as 2027-01-31, or 2027-01-31T18:00, got {text[:40]!r}"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
