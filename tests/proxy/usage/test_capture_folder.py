"""The folder of captures: who can read it, and what is deleted when."""

import stat
from pathlib import Path

import pytest

from proxy.usage.capture import Captured, CapturedAnswer, CapturedRequest
from proxy.usage.capture_folder import DAY, CaptureFolder

NOW = 1_800_000_000.0


def captured(request_id: str, at: float = NOW, size: int = 0) -> Captured:
    request = CapturedRequest(method="POST", path="/", headers={}, body="x" * size, truncated=False)
    answer = CapturedAnswer(status=200, headers={}, body="", truncated=False)
    return Captured(
        id=request_id,
        at=at,
        key=None,
        model="small",
        endpoint="/",
        status=200,
        outcome="ok",
        request=request,
        answer=answer,
    )


def folder(path: Path, *, days: float = 7, most: int = 10**6, now: float = NOW) -> CaptureFolder:
    return CaptureFolder(path, days, most, lambda: now)


def test_nobody_else_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "captures"
    folder(path).write(captured("a"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert {stat.S_IMODE(one.stat().st_mode) for one in path.iterdir()} == {0o600}


def test_ids_are_found_and_are_no_paths(tmp_path: Path) -> None:
    kept = folder(tmp_path / "captures")
    for request_id in ("a", "../../etc/passwd", "*", "a/b"):
        assert kept.newest(request_id) is None
        kept.write(captured(request_id))
        assert kept.has(request_id, NOW)
        assert not kept.has(request_id, NOW + 1)
        assert f'"id":"{request_id}"'.encode() in (kept.newest(request_id) or b"")
    assert [one.name for one in tmp_path.iterdir()] == ["captures"]


def test_the_newest_of_an_id_is_shown(tmp_path: Path) -> None:
    kept = folder(tmp_path)
    kept.write(captured("a", NOW, size=1))
    kept.write(captured("a", NOW - 5, size=2))
    assert b'"body":"x"' in (kept.newest("a") or b"")


def test_old_ones_go(tmp_path: Path) -> None:
    kept = folder(tmp_path, days=2)
    kept.write(captured("new", NOW - DAY))
    kept.write(captured("old", NOW - 3 * DAY))
    folder(tmp_path, days=2).open()
    assert kept.newest("new")
    assert kept.newest("old") is None
    folder(tmp_path, days=2, now=NOW + 9 * DAY).open()
    assert list(tmp_path.iterdir()) == []


def test_the_oldest_go_where_there_is_too_much(tmp_path: Path) -> None:
    kept = folder(tmp_path, most=5000)
    for number in range(10):
        kept.write(captured(str(number), NOW + number, size=1000))
        assert sum(one.stat().st_size for one in tmp_path.iterdir()) <= 5000
    assert kept.newest("9")
    assert kept.newest("0") is None
    again = folder(tmp_path, most=2000)
    again.open()
    assert again.newest("9")
    assert again.newest("8") is None


def test_what_a_killed_gateway_left_half_is_removed(tmp_path: Path) -> None:
    (tmp_path / "1-2.json.part").write_bytes(b"half")
    folder(tmp_path).open()
    assert list(tmp_path.iterdir()) == []


def test_without_captures_no_folder_is_made(tmp_path: Path) -> None:
    folder(tmp_path / "captures").open()
    assert list(tmp_path.iterdir()) == []


def test_deleted_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "captures"
    kept = folder(path, most=500)
    kept.write(captured("a"))
    for one in path.iterdir():
        one.unlink()
    path.rmdir()
    kept.write(captured("b", size=400))
    kept.write(captured("c", size=400))
    assert kept.newest("c") or kept.newest("b") is None


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        folder(tmp_path / "file" / "captures").write(captured("a"))
