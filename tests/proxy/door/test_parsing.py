"""Requests as clients write them and as aiohttp's parser refuses them, each answered in its API's words."""

import asyncio

import pytest
import structlog

from proxy.door.parsing import LINE_LIMIT, first_line, tidy_path
from tests.proxy.scripted import (
    Answer,
    Door,
    Json,
    door,
    json_answer,
    request_body,
    scripted,
)

DIALECTS = {
    "/v1/chat/completions": "openai",
    "/responses": "openai",
    "/nothing": "openai",
    "/v1/messages": "anthropic",
    "/v1/messages/count_tokens": "anthropic",
    "/messages": "anthropic",
    "/upstream/demo/v1/messages": "anthropic",
    "/api/chat": "ollama",
    "/api/nothing": "ollama",
}
NO_ENDPOINTS = {"/nothing", "/api/nothing", "/upstream/demo/v1/messages"}
LONG = b"x" * (LINE_LIMIT + 1)


async def raw(opened: Door, *pieces: bytes, method: str = "POST") -> Answer:
    """The answer to a request in pieces that come one after the other."""
    client = await opened.connect()
    for piece in pieces:
        await client.send(piece)
        await asyncio.sleep(0)
    return await client.answer(method)


def message_of(answer: Answer, dialect: str) -> str:
    """The message of an error, which must have the shape of this dialect."""
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.headers["x-request-id"]
    told: Json = answer.json
    if dialect == "ollama":
        assert set(told) == {"error"}
        return str(told["error"])
    if dialect == "anthropic":
        assert (set(told), told["type"]) == ({"type", "error", "request_id"}, "error")
        assert set(told["error"]) == {"type", "message"}
        assert told["request_id"] == answer.headers["x-request-id"]
    else:
        assert set(told) == {"error"}
        assert set(told["error"]) == {"message", "type", "param", "code"}
    return str(told["error"]["message"])


# Slashes


@pytest.mark.parametrize(
    ("path", "tidy"),
    [
        ("/", "/"),
        ("//", "/"),
        ("/v1/models", "/v1/models"),
        ("//v1/models", "/v1/models"),
        ("/v1//chat///completions//", "/v1/chat/completions"),
        ("/v1/models/org/name/", "/v1/models/org/name"),
        ("/v1/models/a%2F%2Fb", "/v1/models/a%2F%2Fb"),
        ("//upstream//demo//v1/x/", "/upstream/demo//v1/x/"),
        ("/upstream/", "/upstream/"),
        ("/upstreams//x/", "/upstreams/x"),
    ],
)
def test_tidy_paths(path: str, tidy: str) -> None:
    assert tidy_path(path) == tidy


@pytest.mark.parametrize(
    "target",
    [
        "//v1/models",
        "/v1//models",
        "/v1/models/",
        "///v1///models///",
        "/v1/models/?x=//a/",
        "http://localhost//v1/models/",
        "//models",
        "/models/",
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_stray_slashes_in_what_is_looked_at(target: str, method: str) -> None:
    async with door() as opened:
        request = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        answer = await raw(opened, request, method=method)
        assert answer.status == 200
        assert method == "HEAD" or answer.json == {"object": "list", "data": []}


@pytest.mark.parametrize(
    "path", ["/tokenize/", "//tokenize", "//tokenize//", "/tokenize//?x=//", "//upstream/demo/tokenize"]
)
async def test_stray_slashes_in_what_a_model_answers(path: str) -> None:
    async with scripted([json_answer({"tokens": [1]})]) as server, door(server) as opened:
        client = await opened.connect()
        await client.post(path, request_body("/tokenize"))
        assert (await client.answer()).json == {"tokens": [1]}
    assert server.requests[0].line == "POST /tokenize HTTP/1.1"


async def test_the_path_of_a_models_own_server_is_kept() -> None:
    async with scripted([json_answer({})]) as server, door(server) as opened:
        client = await opened.connect()
        await client.request("GET", "//upstream//demo//a//b/?c=//")
        assert (await client.answer("GET")).status == 200
    assert server.requests[0].line == "GET //a//b/?c=// HTTP/1.1"


# Paths without /v1


@pytest.mark.parametrize("path", ["chat/completions", "completions", "responses", "embeddings", "messages"])
async def test_paths_without_v1(path: str) -> None:
    """For clients whose base URL lacks it."""
    script = json_answer({"data": []}) if path == "embeddings" else json_answer({"error": "no"}, "418 Teapot")
    async with scripted([script]) as server, door(server) as opened:
        client = await opened.connect()
        await client.post(f"/{path}", {**request_body(f"/v1/{path}"), "max_tokens": 9})
        assert (await client.answer()).status in (200, 418)
    assert server.requests[0].line.startswith("POST /v1/")


@pytest.mark.parametrize("path", ["/v1/models/demo", "/models/demo", "/models/demo/"])
async def test_one_model_without_v1(path: str) -> None:
    async with door() as opened:
        client = await opened.connect()
        await client.request("GET", path)
        assert (await client.answer("GET")).json["error"]["code"] == "model_not_found"  # none is listed


@pytest.mark.parametrize(
    ("path", "hint"), [("/v1/v1/messages", "/v1"), ("/v1/api/tags", "/v1"), ("/api/v1/models", "/api")]
)
async def test_a_base_url_that_is_too_long(path: str, hint: str) -> None:
    async with door() as opened:
        client = await opened.connect()
        await client.request("GET", path)
        answer = await client.answer("GET")
        assert answer.status == 404
        assert f"leave {hint} out of the base URL" in str(answer.json["error"])


# Requests that cannot be read


HEAD = b"POST %b HTTP/1.1\r\nHost: localhost\r\n"
UNREADABLE: dict[str, tuple[int, bytes]] = {
    "a method": (400, b"FOO %b HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    "no host": (400, b"POST %b HTTP/1.1\r\n\r\n"),
    "a header": (400, HEAD + b"Bad Header: x\r\n\r\n"),
    "a length": (400, HEAD + b"Content-Length: abc\r\n\r\n"),
    "two framings": (400, HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"),
    "an unknown framing": (400, HEAD + b"Transfer-Encoding: gzip\r\n\r\n"),
    "a chunk": (400, HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"),
    "a version": (505, b"POST %b HTTP/2.0\r\nHost: localhost\r\n\r\n"),
    "a character": (400, b"POST %b?\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    "a long query": (414, b"POST %b?" + LONG + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    "a long header": (431, HEAD + b"X-Long: " + LONG + b"\r\n\r\n"),
    "many headers": (431, HEAD + b"X: y\r\n" * 200 + b"\r\n"),
    "a long head": (431, HEAD + b"".join(b"X-%d: %b\r\n" % (i, b"x" * 8000) for i in range(9))),
}


@pytest.mark.parametrize("path", DIALECTS)
@pytest.mark.parametrize("fault", UNREADABLE)
async def test_what_cannot_be_read(fault: str, path: str) -> None:
    status, request = UNREADABLE[fault]
    request = request.replace(b"%b", path.encode())
    async with door() as opened:
        with structlog.testing.capture_logs() as logs:
            answer = await raw(opened, request)
        assert answer.status == status
        assert answer.headers["connection"] == "close"
        assert message_of(answer, DIALECTS[path])
        (entry,) = [entry for entry in logs if entry["event"] == "request"]
        assert (entry["path"], entry["status"]) == (path, status)
        assert entry["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("cut", [3, 12, 30, 60])
async def test_what_cannot_be_read_and_comes_in_pieces(cut: int) -> None:
    request = HEAD.replace(b"%b", b"/v1/messages") + b"Accept: */*\r\nBad Header: x\r\n\r\n"
    async with door() as opened:
        assert message_of(await raw(opened, request[:cut], request[cut:]), "anthropic")


async def test_what_is_no_http_at_all() -> None:
    async with door() as opened:
        for garbage, status in (
            (bytes.fromhex("160301020001000000"), 400),
            (b"\x00" * 50, 400),
            (b"hello\r\n\r\n", 400),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        ):
            answer = await raw(opened, garbage)
            assert answer.status == status, garbage
            assert message_of(answer, "openai")


@pytest.mark.parametrize(
    ("beginning", "line"),
    [
        (b"GET /api/tags HTTP/1.1\r\n", ("GET", "/api/tags")),
        (b"\r\n\r\nPOST  /v1/messages?x=/api HTTP/1.1", ("POST", "/v1/messages")),
        (b"GET http://localhost:1/api/tags HTTP/1.1", ("GET", "/api/tags")),
        (b"GET /api/t\x1b[31m HTTP/1.1", ("GET", "/api/t")),
        (b"GET /api/t#x", ("GET", "/api/t")),
        (b"GET", ("UNKNOWN", "/")),
        (b"", ("UNKNOWN", "/")),
        (b"GET api HTTP/1.1", ("UNKNOWN", "/")),
    ],
)
def test_first_lines(beginning: bytes, line: tuple[str, str]) -> None:
    assert first_line(beginning) == line


# Requests that are read, and refused

REFUSED: dict[str, tuple[int, str, bytes]] = {
    "no body": (400, "", b""),
    "no JSON": (400, "", b"{"),
    "a media type": (415, "Content-Type: text/xml", b"{}"),
    "an encoding": (415, "Content-Encoding: br", b"{}"),
    "too much": (413, "", b"x" * (2**20 + 1)),
}


@pytest.mark.parametrize("path", sorted(DIALECTS.keys() - NO_ENDPOINTS))
@pytest.mark.parametrize("fault", REFUSED)
async def test_what_is_refused(fault: str, path: str) -> None:
    status, header, body = REFUSED[fault]
    if status == 415 and fault == "a media type" and DIALECTS[path] == "ollama":
        status = 400  # there a body is JSON whatever its head says
    async with door() as opened:
        client = await opened.connect()
        await client.request("POST", path, *([header] if header else []), body=body)
        answer = await client.answer()
        assert answer.status == status
        assert message_of(answer, DIALECTS[path])
        if fault == "an encoding":
            assert "zstd" in answer.headers["accept-encoding"]


@pytest.mark.parametrize("path", DIALECTS)
async def test_paths_and_methods_that_there_are_not(path: str) -> None:
    async with door() as opened:
        for target, method, status in ((f"{path}/x", "GET", 404), (path, "DELETE", 405)):
            client = await opened.connect()
            await client.request(method, target.replace("demo", "unknown"))
            answer = await client.answer(method)
            keeps_none = path == "/responses" and method == "GET"
            assert answer.status == (404 if path in NO_ENDPOINTS else 400 if keeps_none else status)
            assert message_of(answer, DIALECTS[path])
            assert ("allow" in answer.headers) == (answer.status == 405)
