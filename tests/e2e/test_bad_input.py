"""Malformed requests: a 4xx in the words of the client's API, one log line, and nothing loaded."""

import json
import re
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.gateway import Gateway, running

CHAT = "/v1/chat/completions"
JSON = "application/json"
LIVE = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n"
HI = b'{"role": "user", "content": "hi"}'


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    models = {"demo": {"path": "builtin:demo"}}
    config = {"llama_cpp": {"models": models}, "server": {"max_body_mb": 1}}
    with running(config, tmp_path_factory.mktemp("idle")) as gateway:
        yield gateway


@pytest.mark.parametrize(
    ("path", "body", "content_type", "status", "words"),
    [
        (CHAT, b"", JSON, 400, "missing request body"),
        (CHAT, b"{", JSON, 400, "not valid JSON"),
        (CHAT, b"[]", JSON, 400, "Expected object"),
        (
            CHAT,
            b'{"model": "demo", "messages": [{"role": "user", "content": "\xff"}]}',
            JSON,
            400,
            "not UTF-8",
        ),
        (CHAT, b'{"model": "demo", "messages": [], "x": ' + b"[" * 100_000, JSON, 400, "nested too deeply"),
        (CHAT, b'{"messages": []}', JSON, 400, "missing required field model"),
        (CHAT, b'{"model": 5, "messages": []}', JSON, 400, "model: Expected str, got int"),
        (CHAT, b'{"model": "demo"}', JSON, 400, "missing required field messages"),
        (CHAT, b'{"model": "demo", "messages": "hi"}', JSON, 400, "messages: Expected array"),
        (CHAT, b'{"model": "demo", "messages": ["hi"]}', JSON, 400, "messages[0]: Expected object"),
        (CHAT, b'{"model": "demo", "messages": [], "stream": "yes"}', JSON, 400, "stream: Expected bool"),
        (
            CHAT,
            b'{"model": "demo", "messages": [], "temperature": "hot"}',
            JSON,
            400,
            "temperature: Expected",
        ),
        (
            CHAT,
            b'{"model": "nobody", "messages": [%s]}' % HI,
            JSON,
            404,
            "model 'nobody' not found; there are: 'demo'",
        ),
        (CHAT, b'{"model": "", "messages": [%s]}' % HI, JSON, 404, "not found"),
        (CHAT, b'{"model": "../../etc/passwd", "messages": [%s]}' % HI, JSON, 404, "not found"),
        (CHAT, b"model=demo", "application/x-www-form-urlencoded", 415, "must be JSON"),
        (CHAT, b"{}", "text/plain", 415, "must be JSON"),
        (CHAT, b" " * 2_000_000, JSON, 413, "larger than 1 MiB"),
        ("/v1/embeddings", b'{"model": "demo"}', JSON, 400, "missing required field input"),
        ("/v1/rerank", b'{"model": "demo", "query": 1, "documents": []}', JSON, 400, "query: Expected str"),
        ("/v1/responses", b'{"model": "demo", "input": 3}', JSON, 400, "input: Expected"),
        ("/v1/messages", b'{"model": "demo"}', JSON, 400, "missing required field messages"),
        (
            "/v1/messages",
            b'{"model": "nobody", "max_tokens": 5, "messages": [%s]}' % HI,
            JSON,
            404,
            "not found",
        ),
        ("/v1/messages", b"nope", JSON, 400, "not valid JSON"),
        ("/v1/messages", b" " * 2_000_000, JSON, 413, "larger than 1 MiB"),
        ("/tokenize", b'{"model": "demo"}', JSON, 400, "missing required field content"),
        ("/detokenize", b'{"model": "demo", "tokens": ["x"]}', JSON, 400, "tokens[0]: Expected int"),
        ("/v1/nothing", b"{}", JSON, 404, "there is no POST /v1/nothing"),
        ("/health", b"{}", JSON, 405, "takes GET"),
    ],
)
def test_malformed_requests(
    idle: Gateway, path: str, body: bytes, content_type: str, status: int, words: str
) -> None:
    headers = {"Content-Type": content_type}
    response = idle.client.post(path, content=body, headers=headers)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert words in error["message"]
    if path == "/v1/messages":
        assert response.json()["type"] == "error"
        assert set(error) == {"type", "message"}
    else:
        assert {"message", "type", "param", "code"} <= set(error)
    request_id = response.headers["X-Request-Id"]
    line = idle.wait_for("request", request_id=request_id)
    assert (line["status"], line["outcome"]) == (status, "error")
    assert sum(line.get("request_id") == request_id for line in idle.log) == 1
    assert idle.model("demo")["state"] == "stopped"


def raw(gateway: Gateway, data: bytes) -> bytes:
    """Send bytes as they are; return the answer, by its length.

    The end of the connection is no part of it: who closes with bytes unread resets, sooner or later.
    """
    address = urlsplit(gateway.url)
    with socket.create_connection((address.hostname, address.port or 80), timeout=5) as client:
        client.sendall(data)
        answer, missing = b"", True
        while missing and (part := client.recv(65536)):
            answer += part
            head, _, body = answer.partition(b"\r\n\r\n")
            length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
            missing = length is None or len(body) < int(length[1])
    return answer


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"HELLO\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (LIVE + b"X-Long: " + b"a" * 100_000 + b"\r\n\r\n", 431),
        (LIVE + b"".join(b"X-%d: y\r\n" % n for n in range(5000)) + b"\r\n", 431),
        (LIVE + b"".join(b"X-%d: %b\r\n" % (n, b"y" * 8000) for n in range(9)), 431),
        (b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n", 400),
    ],
    ids=["no HTTP", "TLS", "long header", "header flood", "endless head", "negative length"],
)
def test_what_is_not_even_http(idle: Gateway, data: bytes, status: int) -> None:
    answer = raw(idle, data)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), answer
    assert json.loads(body)["error"]["code"] == "bad_http"
    assert idle.client.get("/health").status_code == 200


def test_request_ids_are_taken_or_made(idle: Gateway) -> None:
    given = idle.client.get("/health/live", headers={"X-Request-Id": "mine"})
    assert given.headers["X-Request-Id"] == "mine"
    long = idle.client.get("/health/live", headers={"X-Request-Id": "x" * 129})
    assert len(long.headers["X-Request-Id"]) == 32
