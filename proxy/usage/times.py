"""Times as people and programs write them. Pure."""

import re
from datetime import UTC, datetime

_AGO = re.compile(r"(\d{1,6})([dhm])")
_UNITS = {"d": 86_400, "h": 3600, "m": 60}


def parse_time(text: str, now: float) -> float:
    """Return the Unix time that the text means. UTC is the default. Raises `ValueError`.

    It may be a date, a date and a time, Unix seconds, or so long before `now`: 7d, 24h, 30m.
    """
    if (ago := _AGO.fullmatch(text)) is not None:
        return now - int(ago[1]) * _UNITS[ago[2]]
    if re.fullmatch(r"\d{1,11}(\.\d{1,9})?", text):
        return float(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        message = f"expected a time such as 2027-01-31, 2027-01-31T18:00 or 7d, got {text[:40]!r}"
        raise ValueError(message) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
