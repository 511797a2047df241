"""`/upstream/{model}/...`: what goes on to the model server, what comes back, and what does not."""

import gzip
import zlib

import pytest

from tests.proxy.scripted import (
    END,
    Do,
    FakeSupervisor,
    Got,
    Script,
    chunk,
    door,
    head,
    scripted,
    whole,
)

OK = whole(b"ok")


async def passed(target: str, *lines: str, method: str = "GET", body: bytes | None = None) -> Got:
    """The request that reaches the model server."""
    async with scripted([OK]) as server, door(server, prepare=with_names) as opened:
        client = await opened.connect()
        await client.request(method, target, *lines, body=body)
        assert (await client.answer(method)).status == 200
        return server.requests[0]


def with_names(supervisor: FakeSupervisor) -> None:
    supervisor.names = dict.fromkeys(("demo", "org/demo", "org/demo:Q4", "a/b/c", "d e"), "demo")


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/upstream/demo", "/"),
        ("/upstream/demo/", "/"),
        ("/upstream/demo?a=b", "/?a=b"),
        ("/upstream/demo/v1/models", "/v1/models"),
        ("/upstream/org/demo/v1/models", "/v1/models"),
        ("/upstream/org%2Fdemo/v1/models", "/v1/models"),
        ("/upstream/org%2fdemo%3AQ4/v1/models", "/v1/models"),
        ("/upstream/org/demo:Q4/v1/models", "/v1/models"),
        ("/upstream/a%2Fb/c/v1", "/v1"),
        ("/upstream/a/b%2Fc/v1", "/v1"),
        ("/upstream/d%20e/v1", "/v1"),
        ("/upstream/demo/demo/demo", "/demo/demo"),
        ("/upstream/demo//v1//models/", "//v1//models/"),
        ("/upstream/demo/a/../b/./c", "/a/../b/./c"),
        ("/upstream/demo/%2e%2e/a%2Fb%20c%25?x=%2F%3F&y=a+b?c", "/%2e%2e/a%2Fb%20c%25?x=%2F%3F&y=a+b?c"),
        ("/upstream/demo/a;b=c,d:e@f!$'()*~", "/a;b=c,d:e@f!$'()*~"),
        ("http://x/upstream/org%2Fdemo/v1?a=%20", "/v1?a=%20"),
    ],
)
async def test_paths(target: str, expected: str) -> None:
    assert (await passed(target)).line == f"GET {expected} HTTP/1.1"


async def test_a_path_of_many_parts_is_no_work() -> None:
    async with door(prepare=with_names) as opened:
        client = await opened.connect()
        await client.request("GET", "/upstream" + "/x" * 3000)
        assert (await client.answer("GET")).status == 404


SECRETS = [
    "Authorization: Bearer secret",
    "X-Api-Key: secret",
    "Api-Key: secret",
    "ApiKey: secret",
    "X-Goog-Api-Key: secret",
    "X-Auth-Token: secret",
    "X-Access-Token: secret",
    "X-Amz-Security-Token: secret",
    "Ocp-Apim-Subscription-Key: secret",
    "Proxy-Authorization: Basic secret",
    "X-Forwarded-Authorization: secret",
    "Cookie: session=secret",
    "X-Goog-IAM-Authorization-Token: secret",
    "Api_Key: secret",
    "Private-Token: secret",
    "Token: secret",
    "X-Hop: secret",
]


async def test_headers_that_go_on_to_the_model_server() -> None:
    got = await passed(
        "/upstream/demo/x",
        *SECRETS,
        "Connection: keep-alive, X-Hop",
        "TE: trailers",
        "Expect: ",
        "Accept: a/b",
        "Accept: c/d",
        "Idempotency-Key: 1",
        "X-Max-Tokens: 2",
        "X-Name: \u4e16\u754c",
        "Accept-Encoding: gzip, br",
    )
    headers = dict(got.headers)
    assert headers.pop("x-request-id")
    assert headers.pop("host")
    assert headers == {
        "accept": "a/b, c/d",
        "accept-encoding": "identity",
        "idempotency-key": "1",
        "x-max-tokens": "2",
        "x-name": "\u4e16\u754c",
    }


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(b"hello", mtime=0)),
        ("Deflate", zlib.compress(b"hello")),
        ("identity", b"hello"),
    ],
)
async def test_a_body_is_passed_on_decoded_and_says_so(encoding: str, body: bytes) -> None:
    got = await passed("/upstream/demo/x", f"Content-Encoding: {encoding}", method="POST", body=body)
    assert got.body == b"hello"
    assert got.all("content-length") == ["5"]
    assert got.all("content-encoding") == []


async def test_headers_that_come_back() -> None:
    answer = whole(
        gzip.compress(b"hello", mtime=0),
        "Content-Type: text/plain",
        "Content-Encoding: gzip",
        "Connection: keep-alive, X-Hop",
        "X-Hop: 1",
        "Keep-Alive: timeout=5",
        "Set-Cookie: a=b",
        "Set-Cookie: c=d",
        "Access-Control-Allow-Origin: https://evil.example",
        "Access-Control-Allow-Credentials: true",
        "Access-Control-Anything: x",
        "Api-Key: secret",
        "Proxy-Authenticate: Basic",
        "Server: llama.cpp",
        "X-Empty:",
        "X-Name: \u4e16".encode().decode("latin-1"),
    )
    async with scripted([answer]) as server, door(server) as opened:
        client = await opened.connect()
        await client.request("GET", "/upstream/demo/x")
        got = await client.answer("GET")
    assert gzip.decompress(got.body) == b"hello"
    ours = {"date", "server", "x-request-id", "request-id", "x-model-place", "content-length"}
    assert {name: value for name, value in got.headers.items() if name not in ours} == {
        "content-type": "text/plain",
        "content-encoding": "gzip",
        "x-empty": "",
        "x-name": "\u4e16".encode().decode("latin-1"),
    }
    assert "llama" not in got.headers["server"]


@pytest.mark.parametrize(
    ("lines", "length"),
    [
        (["Content-Length: 12"], "12"),
        (["Content-Length: 0"], "0"),
        (["Transfer-Encoding: chunked"], None),
        ([], None),
    ],
)
async def test_head(lines: list[str], length: str | None) -> None:
    """Its answer has no body, whatever its headers say; the connection serves the next request."""
    script: Script = [head(*lines), Do.NEXT, head(*lines), Do.NEXT, OK]
    async with scripted(script) as server, door(server) as opened:
        client = await opened.connect()
        for _ in range(2):
            await client.request("HEAD", "/upstream/demo/file")
            answer = await client.answer("HEAD")
            assert (answer.status, answer.headers.get("content-length")) == (200, length)
        await client.request("GET", "/upstream/demo/file")
        assert (await client.answer("GET")).body == b"ok"
        assert [got.line.split()[0] for got in server.requests] == ["HEAD", "HEAD", "GET"]


async def test_a_body_after_head_is_nobodys_answer() -> None:
    async with scripted([head("Content-Length: 5") + b"hello"], [OK]) as server, door(server) as opened:
        client = await opened.connect()
        await client.request("HEAD", "/upstream/demo/file")
        assert (await client.answer("HEAD")).status == 200
        await client.request("GET", "/upstream/demo/file")
        assert (await client.answer("GET")).body == b"ok"


@pytest.mark.parametrize("method", ["GET", "DELETE", "OPTIONS", "HEAD"])
@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
async def test_answers_without_a_body(method: str, status: str) -> None:
    script: Script = [head("ETag: x", status=status), Do.NEXT, OK]
    async with scripted(script) as server, door(server) as opened:
        client = await opened.connect()
        await client.request(method, "/upstream/demo/file")
        answer = await client.answer(method)
        assert (answer.status, answer.headers["etag"]) == (int(status[:3]), "x")
        await client.request("GET", "/upstream/demo/file")
        assert (await client.answer("GET")).body == b"ok"


BROKEN: dict[str, Script] = {
    "101": [head("Upgrade: websocket", "Connection: upgrade", status="101 Switching Protocols")],
    "1xx for ever": [head(status="102 Processing") * 50_000 + OK],
    "a control character": [whole(b"x", "X: \x00")],
    "a header without a name": [whole(b"x", ": x")],
    "two lengths": [head("Content-Length: 1", "Content-Length: 2") + b"x"],
    "a length of 6,000 digits": [head("Content-Length: " + "9" * 6000)],
    "a length and chunks": [head("Content-Length: 1", "Transfer-Encoding: chunked") + chunk(b"x") + END],
    "status 999": [head(status="999 None")],
    "not HTTP": [b"hello\r\n"],
}


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("script", BROKEN.values(), ids=BROKEN)
async def test_what_is_no_answer(script: Script, method: str) -> None:
    async with scripted(script) as server, door(server, silence=5) as opened:
        client = await opened.connect()
        await client.request(method, "/upstream/demo/file", body=b"{}" if method == "POST" else None)
        assert (await client.answer(method)).status == 502


async def test_a_chunk_of_any_size_is_no_number_to_choke_on() -> None:
    script = [head("Transfer-Encoding: chunked") + b"f" * 4000 + b"\r\nx"]
    async with scripted(script) as server, door(server, silence=5) as opened:
        client = await opened.connect()
        await client.request("GET", "/upstream/demo/file")
        await client.head()
        assert b"0\r\n\r\n" not in await client.rest()
