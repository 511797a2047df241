"""The boundary of a request: the methods that a path takes, and errors that nobody expected."""

import aiohttp
import pytest
import structlog
from aiohttp import web

from agents.api import Agent, Call, operation
from agents.host.discovery import Loaded
from proxy.door.origins import METHODS, Origins
from tests.proxy.scripted import Door, door


class Shelf(Agent):
    """Has operations."""

    description = "keeps things"

    @operation("GET", "things")
    async def things(self, _call: Call) -> dict[str, str]:
        """All of them."""
        return {"things": "none"}

    @operation("POST", "things")
    async def add(self, _call: Call) -> dict[str, str]:
        """One more."""
        return {}


AGENTS = [Loaded("shelf", __name__, Shelf, Shelf.Config())]
ALLOWED = {
    "/": "GET, HEAD, OPTIONS",
    "/health": "GET, HEAD, OPTIONS",
    "/v1/health": "GET, HEAD, OPTIONS",
    "/metrics": "GET, HEAD, OPTIONS",
    "/props": "GET, HEAD, OPTIONS",
    "/v1/models": "GET, HEAD, OPTIONS",
    "/models/": "GET, HEAD, OPTIONS",
    "/v1/models/org/name": "GET, HEAD, OPTIONS",
    "/v1/chat/completions": "OPTIONS, POST",
    "/v1/messages/count_tokens": "OPTIONS, POST",
    "/api/tags": "GET, HEAD, OPTIONS",
    "/api/chat": "OPTIONS, POST",
    "/api/delete": "DELETE, OPTIONS",
    "/api/blobs/sha256:0": "HEAD, OPTIONS, POST",
    "/v1/agents/shelf": "GET, HEAD, OPTIONS",
    "/v1/agents/shelf/things": "GET, HEAD, OPTIONS, POST",
    "*": METHODS,
}


async def status_of(opened: Door, method: str, path: str, *headers: str) -> tuple[int, dict[str, str], bytes]:
    client = await opened.connect()
    await client.request(method, path, *headers)
    answer = await client.answer(method)
    return answer.status, answer.headers, answer.body


@pytest.mark.parametrize("path", ALLOWED)
async def test_options(path: str) -> None:
    async with door(agents=AGENTS) as opened:
        status, headers, body = await status_of(opened, "OPTIONS", path)
        assert (status, body) == (204, b"")
        assert set(headers["allow"].split(", ")) == set(ALLOWED[path].split(", "))
        assert headers["x-request-id"]


@pytest.mark.parametrize("path", sorted(ALLOWED.keys() - {"*"}))
async def test_methods_that_a_path_does_not_take(path: str) -> None:
    async with door(agents=AGENTS) as opened:
        for method in ("HEAD", "PUT", "PATCH", "TRACE"):
            status, headers, body = await status_of(opened, method, path)
            if method in ALLOWED[path]:
                assert status != 405
            else:
                assert (status, headers["allow"]) == (405, ALLOWED[path])
                assert (method == "HEAD") == (body == b"")


@pytest.mark.parametrize("path", [path for path, allowed in ALLOWED.items() if "GET" in allowed])
async def test_head_is_get_without_a_body(path: str) -> None:
    async with door(agents=AGENTS) as opened:
        status, headers, _ = await status_of(opened, "GET", path)
        looked_at = await status_of(opened, "HEAD", path)
        assert (looked_at[0], looked_at[2]) == (status, b"")
        assert looked_at[1]["content-type"] == headers["content-type"]


async def test_options_of_what_there_is_not() -> None:
    async with door(agents=AGENTS) as opened:
        for path in ("/nothing", "/v1/agents/shelf/nothing", "/v1/agents/nobody/things", "/api/nothing"):
            assert (await status_of(opened, "OPTIONS", path))[0] == 404


async def test_options_for_pages() -> None:
    """A preflight is another question; whoever may not ask learns nothing."""
    async with door(origins=Origins(["https://a.example"])) as opened:
        page = "Origin: https://a.example"
        status, headers, _ = await status_of(opened, "OPTIONS", "/api/chat", page)
        assert (status, headers["allow"]) == (204, "OPTIONS, POST")
        assert headers["access-control-allow-origin"] == "https://a.example"
        asked = (page, "Access-Control-Request-Method: POST")
        status, headers, _ = await status_of(opened, "OPTIONS", "/api/chat", *asked)
        assert (status, headers["access-control-allow-methods"]) == (204, METHODS)
        status, headers, _ = await status_of(opened, "OPTIONS", "/api/chat", "Origin: https://b.example")
        assert status == 403
        assert "allow" not in headers


async def fails_at_once(_request: web.Request) -> web.StreamResponse:
    raise ValueError("secret")


async def fails_in_the_middle(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"half an answer")
    raise ValueError("secret")


async def test_an_error_that_nobody_expected() -> None:
    routes = {"/at-once": fails_at_once, "/in-the-middle": fails_in_the_middle}
    async with door(routes=routes) as opened:
        session = opened.session
        with structlog.testing.capture_logs() as logs:
            async with session.get("/at-once") as response:
                assert response.status == 500
                message = (await response.json())["error"]["message"]
            assert "secret" not in message
            assert response.headers["X-Request-Id"] in message
            # Once it has begun, the answer is cut, and nothing is appended to it.
            with pytest.raises(aiohttp.ClientPayloadError):
                async with session.get("/in-the-middle") as response:
                    await response.read()
    outcomes = [(log["path"], log["status"], log["outcome"]) for log in logs if log["event"] == "request"]
    assert outcomes == [("/at-once", 500, "error"), ("/in-the-middle", 500, "error")]
