"""`server.base_path`: below it everything is as it is without one."""

import asyncio
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.apis.table import ENDPOINTS
from proxy.door.parsing import PROBES, below
from tests.proxy.scripted import Answer, Door, door, json_answer, request_body, scripted

BASE = "/llm"
ANSWER = json_answer({"choices": [{"message": {"content": "x"}}], "done": True, "tokens": [1]})
HOST = "Host: localhost"
OTHERS = [
    ("GET", "/health/live"),
    ("GET", "/health/ready"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/none"),
    ("GET", "/admin/plan"),
    ("GET", "/api/tags"),
    ("HEAD", "/"),
    ("GET", "/nothing"),
    ("GET", "/v1/v1/models"),
    ("GET", "//v1//models/"),
    ("GET", "/v1/models?x=/y"),
    ("DELETE", "/v1/messages"),
    ("OPTIONS", "/v1/chat/completions"),
    ("OPTIONS", "/api/chat"),
    ("GET", "http://localhost/v1/models"),
]


async def ask(opened: Door, method: str, target: str, body: bytes = b"") -> Answer:
    client = await opened.connect()
    head = (
        f"{method} {target} HTTP/1.1\r\n{HOST}\r\nX-Request-Id: same\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    await client.send(head.encode() + body)
    return await client.answer(method)


def under(target: str) -> str:
    """The same target below the base path."""
    start = "http://localhost" if target.startswith("http") else ""
    return start + BASE + target.removeprefix(start)


def comparable(answer: Answer) -> tuple[object, ...]:
    headers = {
        name: value for name, value in answer.headers.items() if name not in ("date", "content-length")
    }
    return answer.status, headers, answer.body if b"uptime" not in answer.body else b""


@pytest.mark.parametrize(("method", "target"), OTHERS)
async def test_routes(method: str, target: str) -> None:
    async with door() as plain, door(base_path=BASE) as based:
        expected = await ask(plain, method, target)
        assert comparable(await ask(based, method, under(target))) == comparable(expected)


@pytest.mark.parametrize("path", [path for endpoint in ENDPOINTS for path in endpoint.paths])
async def test_endpoints_and_the_errors_of_their_dialects(path: str) -> None:
    bodies = (b"{", b"[]", b'{"model": 1}')
    async with door() as plain, door(base_path=BASE) as based:
        for body in bodies:
            expected = await ask(plain, "POST", path, body)
            assert expected.status >= 400
            assert comparable(await ask(based, "POST", BASE + path, body)) == comparable(expected)


async def test_a_model_is_asked() -> None:
    async with scripted([ANSWER, ANSWER]) as server, door(server, base_path=BASE) as based:
        client = await based.connect()
        await client.post(f"{BASE}/tokenize", request_body("/tokenize"))
        assert (await client.answer()).status == 200
        assert (await ask(based, "GET", f"{BASE}/upstream/demo//x/?y=/llm/z")).status == 200
    assert [got.line.split()[1] for got in server.requests] == ["/tokenize", "//x/?y=/llm/z"]


@pytest.mark.parametrize("location", ["/x", "//other.example/x", "http://other.example/x", "x"])
async def test_a_model_server_s_redirection_stays_below_it(location: str) -> None:
    moved = (
        json_answer({})
        .replace(b"200 OK", b"302 Found")
        .replace(b"\r\n", f"\r\nLocation: {location}\r\n".encode(), 1)
    )
    async with scripted([moved]) as server, door(server, base_path=BASE) as based:
        answer = await ask(based, "GET", f"{BASE}/upstream/demo/y")
        expected = f"{BASE}/upstream/demo/x" if location == "/x" else location
        assert (answer.status, answer.headers["location"]) == (302, expected)


@pytest.mark.parametrize("path", ["/", "/v1/models", "/llmx", "/llmx/v1/models", "/x/llm", "/health"])
async def test_other_paths_are_not_served(path: str) -> None:
    async with door(base_path=BASE) as based:
        answer = await ask(based, "GET", path)
        assert answer.status == 404
        assert b"this gateway serves below /llm" in answer.body


async def test_probes_are_answered_outside_too() -> None:
    async with door(base_path=BASE) as based:
        for path in PROBES:
            assert (await ask(based, "GET", path)).status == 200
        assert (await ask(based, "OPTIONS", "*")).status == 204


async def test_unreadable_requests_are_answered_in_their_dialect() -> None:
    async with door(base_path=BASE) as based:
        client = await based.connect()
        await client.send(b"POST /llm/api/chat HTTP/1.1\r\nHost: x\r\nContent-Length: none\r\n\r\n")
        answer = await client.answer()
        assert answer.status == 400
        assert set(answer.json) == {"error"}
        assert isinstance(answer.json["error"], str)


async def test_requests_that_come_together() -> None:
    async with door(base_path=BASE) as based:
        client = await based.connect()
        await client.send(f"GET {BASE}/health/live HTTP/1.1\r\n{HOST}\r\n\r\n".encode() * 3)
        for _ in range(3):
            assert (await client.answer("GET")).json == {"status": "ok"}
            await asyncio.sleep(0)


SEGMENTS = st.lists(st.text("ab.%/", max_size=3), max_size=4)


@given(st.sampled_from(["/a", "/a/b", "/a.b"]), SEGMENTS)
def test_a_path_is_below_by_whole_segments(base: str, segments: Iterable[str]) -> None:
    path = "/" + "/".join(segments)
    inner = below(base, path)
    assert below(base, base + path) == path
    assert below(base, base) == "/"
    if inner is None:
        assert path.split("/")[: base.count("/") + 1] != base.split("/")
    else:
        assert inner.startswith("/")
        assert base + inner in (path, path + "/")
