"""Anthropic's list of models, page by page."""

from typing import Any

import msgspec
import pytest
from anthropic.types import ModelInfo
from pydantic import TypeAdapter

from proxy.apis.anthropic.models import Entry, encode_model, encode_page
from proxy.apis.fields import FieldError

ENTRIES = [Entry(name, 1_700_000_000, 4096 if name == "a" else None) for name in "abcde"]


@pytest.mark.parametrize(
    ("query", "names", "has_more"),
    [
        ({}, "abcde", False),
        ({"limit": "2"}, "ab", True),
        ({"limit": "2", "after_id": "b"}, "cd", True),
        ({"limit": "2", "after_id": "d"}, "e", False),
        ({"limit": "2", "after_id": "e"}, "", False),
        ({"limit": "2", "before_id": "d"}, "bc", True),
        ({"limit": "3", "before_id": "d"}, "abc", False),
    ],
)
def test_pages(query: dict[str, str], names: str, has_more: bool) -> None:
    page = encode_page(ENTRIES, query)
    assert "".join(model["id"] for model in page["data"]) == names
    first, last = (names[0], names[-1]) if names else (None, None)
    assert (page["has_more"], page["first_id"], page["last_id"]) == (has_more, first, last)


@pytest.mark.parametrize(
    "query", [{"limit": "0"}, {"limit": "1001"}, {"limit": "-1"}, {"limit": "x"}, {"after_id": "z"}]
)
def test_what_is_no_page(query: dict[str, str]) -> None:
    with pytest.raises(FieldError) as caught:
        encode_page(ENTRIES, query)
    assert caught.value.field in query


def test_a_model_is_of_the_official_type() -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(ModelInfo)
    model = adapter.validate_json(msgspec.json.encode(encode_model(ENTRIES[0])), strict=True)
    assert (model.id, model.max_input_tokens, model.created_at.timestamp()) == ("a", 4096, 1_700_000_000)
