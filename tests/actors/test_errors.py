"""What msgspec says, read."""

import msgspec
import pytest

from actors.errors import UNREADABLE, located


class _Inner(msgspec.Struct):
    count: int


class _Outer(msgspec.Struct):
    inner: list[_Inner] = []


@pytest.mark.parametrize(
    ("data", "message", "path"),
    [
        (b"[]", "Expected object, got array", ""),
        (b'{"inner":[{"count":1},{"count":"x"}]}', "Expected int, got str", "inner[1].count"),
        (b'{"inner":[{}]}', "Object missing required field count", "inner[0]"),
    ],
)
def test_where_something_is_wrong(data: bytes, message: str, path: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(data, type=_Outer)
    assert located(caught.value) == (message, path)


@pytest.mark.parametrize("data", [b"{", b'"\xff"', b"[" * 9999, "\ud800", b"\xff"])
def test_what_is_no_json(data: bytes | str) -> None:
    with pytest.raises(UNREADABLE):
        msgspec.json.decode(data)
