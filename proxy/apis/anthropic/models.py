"""Writes the list of models in Anthropic's form."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from proxy.apis.fields import FieldError, Json

VERSION_HEADER = "anthropic-version"
"""The header that identifies Anthropic's clients where a path belongs to several APIs."""

_PAGE = 20
_LARGEST_PAGE = 1000


class Entry(msgspec.Struct, frozen=True):
    """A model. `created` is in seconds since the epoch, `context` in tokens; None: unknown."""

    name: str
    created: int
    context: int | None = None


def encode_model(entry: Entry) -> Json:
    """Return a model as the list of models shows it."""
    return {
        "type": "model",
        "id": entry.name,
        "display_name": entry.name,
        "created_at": datetime.fromtimestamp(entry.created, UTC).isoformat().replace("+00:00", "Z"),
        "lifecycle": "active",
        "max_input_tokens": entry.context,
        "max_tokens": entry.context,
    }


def encode_page(entries: Sequence[Entry], query: Mapping[str, str]) -> Json:
    """Return the page of the list that `limit`, and `after_id` or `before_id` select. Raises `FieldError`."""
    limit = _limit(query.get("limit"))
    names = [entry.name for entry in entries]
    if (before := query.get("before_id")) is not None:
        end = _place(names, before, "before_id")
        begin = max(0, end - limit)
        has_more = begin > 0
    else:
        after = query.get("after_id")
        begin = 0 if after is None else _place(names, after, "after_id") + 1
        end = begin + limit
        has_more = end < len(names)
    data = [encode_model(entry) for entry in entries[begin:end]]
    ends = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
    return {"data": data, "has_more": has_more, **ends}


def _limit(value: str | None) -> int:
    if value is None:
        return _PAGE
    if not (value.isascii() and value.isdigit() and 1 <= int(value[:9]) <= _LARGEST_PAGE):
        raise FieldError("limit", f"must be a number from 1 to {_LARGEST_PAGE}")
    return int(value)


def _place(names: Sequence[str], name: str, field: str) -> int:
    if name not in names:
        raise FieldError(field, f"there is no model {name[:200]!r}")
    return names.index(name)
