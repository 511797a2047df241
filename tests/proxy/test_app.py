"""The boundary of a request: what becomes of an error that nobody expected."""

import aiohttp
import pytest
import structlog
from aiohttp import web

from tests.proxy.scripted import door


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
