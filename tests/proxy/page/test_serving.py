"""How the page is served: to browsers, with caching, and without a key."""

import gzip
from pathlib import Path

import aiohttp
import pytest

from proxy.access.gate import Gate
from proxy.access.store import KeyStore
from proxy.page.files import POLICY
from tests.proxy.scripted import PAGE, door

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
MAIN = f"/ui/{PAGE.digest}/main.js"


async def test_a_browser_gets_the_page_and_a_program_what_it_got() -> None:
    async with door() as opened:
        for path, headers in (("/ui", {}), ("/ui/", {}), ("/ui", BROWSER), ("/", BROWSER)):
            async with opened.session.get(path, headers=headers) as answer:
                assert answer.status == 200
                assert answer.content_type == "text/html"
                assert await answer.read() == PAGE.index.body
        for accept in ("*/*", "application/json", "text/plain"):
            async with opened.session.get("/", headers={"Accept": accept}) as answer:
                assert (await answer.text(), answer.headers["Vary"]) == (
                    "Ollama is running",
                    "Accept, Accept-Encoding",
                )


@pytest.mark.parametrize(
    ("path", "caching"), [("/ui", "no-cache"), (MAIN, "public, max-age=31536000, immutable")]
)
async def test_headers(path: str, caching: str) -> None:
    async with door() as opened, opened.session.get(path) as answer:
        assert answer.headers["Content-Security-Policy"] == POLICY
        assert answer.headers["Cache-Control"] == caching
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "Set-Cookie" not in answer.headers
    assert POLICY == (
        "default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'; base-uri 'none'; "
        "form-action 'self'"
    )


async def test_compressed_once_and_not_sent_again() -> None:
    file = PAGE.files["main.js"]
    async with door() as opened, aiohttp.ClientSession(auto_decompress=False) as raw:
        url = f"http://127.0.0.1:{opened.port}{MAIN}"
        async with raw.get(url, headers={"Accept-Encoding": "gzip, br"}) as answer:
            assert gzip.decompress(await answer.read()) == file.body
            assert answer.headers["Content-Encoding"] == "gzip"
            compressed = answer.headers["ETag"]
        async with raw.get(url, headers={"Accept-Encoding": "identity"}) as answer:
            assert await answer.read() == file.body
            plain = answer.headers["ETag"]
        assert plain != compressed
        for tag, encoding in ((plain, "identity"), (compressed, "gzip")):
            async with raw.get(url, headers={"If-None-Match": tag, "Accept-Encoding": encoding}) as answer:
                assert (answer.status, await answer.read()) == (304, b"")
                assert answer.headers["ETag"] == tag
        async with raw.head(url) as answer:
            assert answer.status == 200


async def test_files_are_found_from_either_address_of_the_page() -> None:
    async with door() as opened:
        for path in (MAIN, f"/ui{MAIN}", f"/ui/{PAGE.digest}/views/now.js"):
            async with opened.session.get(path) as answer:
                assert (answer.status, answer.content_type) == (200, "text/javascript")
        for path in (
            "/ui/0123456789abcdef/main.js",
            f"/ui/{PAGE.digest}/../../secrets",
            f"/ui/{PAGE.digest}/no.js",
        ):
            async with opened.session.get(path) as answer:
                assert answer.status == 404
                assert (await answer.json())["error"]["code"] == "not_found"


async def test_the_page_needs_no_key_but_what_it_shows_does(tmp_path: Path) -> None:
    gate = Gate(KeyStore(tmp_path / "keys"), is_reachable=True)
    async with door(gate=gate) as opened:
        for path, status in (
            ("/ui", 200),
            (MAIN, 200),
            ("/admin/plan?model=m", 401),
            ("/ui/../admin/plan", 401),
        ):
            async with opened.session.get(path) as answer:
                assert answer.status == status, path


async def test_below_a_base_path() -> None:
    async with door(base_path="/llm") as opened:
        for path in ("/llm", "/llm/"):
            async with opened.session.get(path, headers=BROWSER) as answer:
                assert (answer.status, answer.url.path) == (200, "/llm/ui")
            async with opened.session.get(path) as answer:
                assert await answer.text() == "Ollama is running"
        for path in (f"/llm{MAIN}", f"/llm/ui{MAIN}"):
            async with opened.session.get(path) as answer:
                assert answer.content_type == "text/javascript"


async def test_another_page_may_link_to_it_but_not_read_it() -> None:
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    frame = {**link, "Sec-Fetch-Dest": "iframe"}
    async with door() as opened:
        for headers, status in ((link, 200), (frame, 403), ({"Origin": "http://evil.example"}, 403)):
            async with opened.session.get("/ui", headers=headers) as answer:
                assert answer.status == status
