"""Captures take no more memory than they may, and give it back."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.config.schema import CaptureSettings
from proxy.usage.capture import Capture, Room
from proxy.usage.capture_folder import CaptureFolder
from proxy.usage.captures import Captures
from proxy.usage.redaction import REDACTED
from tests.proxy.usage.requests import request


def captures(folder: Path, *, memory: int = 10**6, **settings: object) -> Captures:
    kept = CaptureSettings(**{"models": ["*"], **settings})  # type: ignore[arg-type]
    return Captures(kept, CaptureFolder(folder / "captures", 7, 10**9, clock=lambda: 0.0), memory=memory)


@given(
    st.integers(min_value=1, max_value=300),
    st.integers(min_value=0, max_value=500),
    st.lists(st.tuples(st.binary(max_size=200), st.lists(st.binary(max_size=200))), max_size=6),
)
def test_nothing_is_beyond_its_limit(
    limit: int, memory: int, bodies: list[tuple[bytes, list[bytes]]]
) -> None:
    room = Room(memory)
    taken: list[Capture] = []
    for body, pieces in bodies:
        capture = Capture(room, limit)
        taken.append(capture)
        capture.take_request("POST", "/", {}, body)
        for piece in pieces:
            capture.take_piece(piece)
        assert 0 <= room.left <= memory
        kept = capture.read(request())
        # Without a head the answer cannot be told from its framing, and is given as it is.
        assert len(kept.request.body) <= limit
        assert len(kept.answer.body) <= limit
        assert kept.request.truncated or kept.request.body == body.decode(errors="replace")
    for capture in taken:
        capture.release()
        capture.release()
    assert room.left == memory


@pytest.mark.parametrize("cut", [0, 10, 60, 90, 110, 500])
def test_an_answer_is_read_as_far_as_it_came(cut: int) -> None:
    written = (
        b"HTTP/1.1 100 Continue\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nSet-Cookie: a=b\r\n\r\n"
        b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
    )
    capture = Capture(Room(1000), 1000)
    for at in range(0, len(written[:cut]), 7):
        capture.take_piece(written[:cut][at : at + 7])
    answer = capture.read(request()).answer
    if cut == 500:
        assert (answer.status, answer.body) == (200, "hello world")
        assert answer.headers["set-cookie"] == REDACTED
    else:
        assert "hello world".startswith(answer.body)
        assert answer.status in (None, 200)


async def test_without_room_a_request_is_not_captured_and_counted(tmp_path: Path) -> None:
    kept = captures(tmp_path, memory=10)
    first = kept.begin("", ["small"])
    assert first is not None
    first.take_request("POST", "/", {}, b"x" * 100)
    assert kept.begin("", ["small"]) is None
    assert kept.dropped == 1
    kept.account(request(capture=first))
    await kept.close()
    assert kept.begin("", ["small"]) is not None, "it was written"


async def test_what_went_well_gives_its_room_back(tmp_path: Path) -> None:
    kept = captures(tmp_path, memory=10, failures_only=True)
    for _ in range(3):
        capture = kept.begin("", ["small"])
        assert capture is not None
        capture.take_request("POST", "/", {}, b"x" * 10)
        kept.account(request(capture=capture))
    await kept.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("models", "keys", "key", "names", "chosen"),
    [
        ([], [], "alice", ["small"], False),
        (["sm*"], [], "", ["Small", "other"], True),
        (["sm*"], [], "alice", ["large"], False),
        ([], ["al*"], "Alice", ["large"], True),
        ([], ["*"], "", ["large"], False),
        (["other"], ["bob"], "bob", ["large"], True),
    ],
)
def test_models_or_keys_choose(
    models: list[str], keys: list[str], key: str, names: list[str], chosen: bool
) -> None:
    with TemporaryDirectory() as folder:
        kept = captures(Path(folder), models=models, keys=keys)
        assert (kept.begin(key, names) is not None) == chosen
        assert kept.is_on == bool(models or keys)
