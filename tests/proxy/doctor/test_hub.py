"""What is said of the hub, its token, and the clock."""

from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from proxy.doctor.checks import Finding
from proxy.doctor.hub import check_hub, clock
from tests.proxy.doctor.patients import patient
from tests.raw_server import answer, saying

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC).timestamp()


async def findings(reply: Callable[[bytes], bytes], folder: Path, **settings: Any) -> tuple[Finding, Finding]:
    async with saying(reply) as url:
        hub = {"allow": ["*"], "endpoint": url, **settings}
        found, time = await check_hub(patient(folder, hub=hub))
        return found, time


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))


async def test_a_hub(tmp_path: Path) -> None:
    date = format_datetime(datetime.now(UTC), usegmt=True).encode()
    found, time = await findings(lambda _: answer(b"[]", headers=b"Date: %s\r\n" % date), tmp_path)
    assert (found.status, time.status) == ("ok", "ok")
    assert time.found.endswith("as the hub's clock")


@pytest.mark.parametrize(
    ("status", "expected", "words"),
    [
        (b"200 OK", "ok", "the token is accepted"),
        (b"401 Unauthorized", "error", "the token is refused"),
        (b"404 Not Found", "ok", "cannot be checked there"),
        (b"502 Bad Gateway", "error", "status 502"),
    ],
)
async def test_a_token(status: bytes, expected: str, words: str, tmp_path: Path) -> None:
    asked: list[bytes] = []

    def reply(request: bytes) -> bytes:
        asked.append(request)
        return answer(b"{}", status)

    found, _ = await findings(reply, tmp_path, token="hf_secret")
    assert found.status == expected
    assert words in found.found
    assert "hf_secret" not in found.found
    assert b"whoami" in asked[0]
    assert b"Bearer hf_secret" in asked[0]


@pytest.mark.parametrize("reply", [b"", b"HTTP/1.1 200", answer(b"", headers=b"Date: soon\r\n")])
async def test_a_hub_that_says_something_else(reply: bytes, tmp_path: Path) -> None:
    found, time = await findings(lambda _: reply, tmp_path)
    assert found.status == ("ok" if b"Date" in reply else "error")
    assert time.status == "ok"


@pytest.mark.parametrize("hub", [{}, {"offline": True, "allow": ["*"]}])
async def test_a_hub_that_is_not_needed_is_not_asked(hub: dict[str, Any], tmp_path: Path) -> None:
    found, time = await check_hub(patient(tmp_path, hub={"endpoint": "http://127.0.0.1:9", **hub}))
    assert (found.status, time.status) == ("absent", "ok")


@pytest.mark.parametrize(
    ("now", "other", "status", "words"),
    [
        (NOW, None, "ok", "2026-11-28 12:00:00 UTC, not compared"),
        (NOW, NOW - 60, "ok", "as the hub's clock"),
        (NOW, NOW - 3600, "error", "is 3,600 s ahead of"),
        (NOW, NOW + 61, "error", "is 61 s behind"),
        (0.0, None, "error", "1970-01-01 00:00:00 UTC is long past"),
    ],
)
def test_the_clock(now: float, other: float | None, status: str, words: str) -> None:
    finding = clock(now, other)
    assert finding.status == status
    assert words in finding.found
