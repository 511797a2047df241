"""Which pages and names are served, and how a browser is told."""

import socket
from typing import Any

import psutil
import pytest

from proxy.door.origins import Origins
from tests.proxy.scripted import DONE, END, Answer, Do, Door, Step, chunk, door, head, said, scripted

EVIL = "https://evil.example"
PATHS = [
    ("GET", "/health"),
    ("GET", "/v1/models"),
    ("GET", "/api/tags"),
    ("GET", "/metrics"),
    ("GET", "/upstream/demo/props"),
    ("GET", "/nothing"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/messages"),
    ("POST", "/v1/responses"),
    ("POST", "/api/generate"),
    ("POST", "/upstream/demo/slots/0"),
    ("POST", "/v1/agents/rag/documents"),
    ("DELETE", "/api/delete"),
    ("OPTIONS", "/api/chat"),
    ("PUT", "/nothing"),
]


async def ask(
    opened: Door,
    method: str = "GET",
    path: str = "/health/live",
    host: str | None = "localhost",
    **headers: Any,
) -> Answer:
    """A request by hand. Underscores in names of headers stand for hyphens; a list repeats one."""
    client = await opened.connect()
    pairs = [] if host is None else [("Host", host)]
    for name, values in headers.items():
        pairs += [(name.replace("_", "-"), v) for v in (values if isinstance(values, list) else [values])]
    lines = "".join(f"{name}: {value}\r\n" for name, value in pairs)
    await client.send(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode())
    return await client.answer(method)


FOREIGN: list[dict[str, Any]] = [
    {"Origin": EVIL},
    {"Origin": "null"},
    {"Origin": "http://localhost:3000"},
    {"Origin": ["http://localhost", EVIL]},
    {"Origin": "chrome-extension://abc"},
    {"Sec_Fetch_Site": "cross-site"},
    {"Sec_Fetch_Site": "same-site"},
    {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors", "Sec_Fetch_Dest": "image"},
    {"Sec_Fetch_Site": ["none", "cross-site"]},
    {"Origin": EVIL, "Sec_Fetch_Site": "none"},
    {"Origin": EVIL, "Sec_Fetch_Site": "same-origin"},
    {"Origin": EVIL, "Access_Control_Request_Method": "POST"},
    {"Origin": EVIL, "X_Forwarded_Host": "localhost"},
]


@pytest.mark.parametrize(("method", "path"), PATHS)
async def test_foreign_pages(method: str, path: str) -> None:
    async with door() as opened:
        for headers in FOREIGN:
            answer = await ask(opened, method, path, **headers)
            assert answer.status == 403, headers
            assert "access-control-allow-origin" not in answer.headers
            error = answer.json["error"]
            if path.startswith("/api/"):
                assert "allowed_origins" in error
            elif path == "/v1/messages":
                assert (answer.json["type"], error["type"]) == ("error", "permission_error")
            else:
                assert error["code"] == "origin_not_allowed"
        assert not opened.supervisor.asked


async def test_a_foreign_page_is_refused_before_its_body_comes() -> None:
    async with door() as opened:
        answer = await ask(opened, "POST", "/api/generate", Origin=EVIL, Content_Length="1000000")
        assert answer.status == 403


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec_Fetch_Site": "none"},
        {"Sec_Fetch_Site": "same-origin"},
        {"Origin": "http://localhost"},
        {"Origin": "HTTP://LOCALHOST:80"},
        {"host": "gw.lan:8000", "Origin": "http://gw.lan:8000", "Sec_Fetch_Site": "same-origin"},
        {"host": "gw.lan", "Origin": "https://gw.lan"},
        {"host": "gw.lan:443", "Origin": "https://gw.lan"},
        {"host": "gw.lan", "Origin": "https://gw.lan:8443", "Sec_Fetch_Site": "same-origin"},
        {"host": "127.0.0.1:8000", "Origin": "https://gw.lan", "X_Forwarded_Host": "gw.lan"},
        {"host": "[::1]:8000", "Origin": "http://[::1]:8000"},
    ],
)
async def test_own_pages_and_programs(headers: dict[str, Any]) -> None:
    async with door() as opened:
        assert (await ask(opened, **headers)).status == 200


@pytest.mark.parametrize(
    ("path", "dest", "status"),
    [
        ("/", "document", 200),
        ("/health", "document", 200),
        ("/", "iframe", 403),
        ("/v1/models", "document", 403),
    ],
)
async def test_links_of_other_pages(path: str, dest: str, status: int) -> None:
    async with door() as opened:
        answer = await ask(
            opened, path=path, Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate", Sec_Fetch_Dest=dest
        )
        assert answer.status == status


# Pages that are allowed

ALLOWED = ["https://chat.example.org", "http://localhost:*", "https://*.trusted.example", "app://obsidian.md"]


@pytest.mark.parametrize(
    ("origin", "is_allowed"),
    [
        ("https://chat.example.org", True),
        ("https://CHAT.example.org", True),
        ("http://chat.example.org", False),
        ("https://chat.example.org:444", False),
        ("https://chat.example.org.evil.example", False),
        ("http://localhost", True),
        ("http://localhost:3000", True),
        ("https://localhost:3000", False),
        ("http://localhost:3000.evil.example", False),
        ("https://a.trusted.example", True),
        ("https://trusted.example", False),
        ("https://evil.example:1@x.trusted.example", False),
        ("https://evil.example#.trusted.example", False),
        ("https://evil.example?.trusted.example", False),
        ("app://obsidian.md", True),
        ("null", False),
    ],
)
async def test_which_pages_are_allowed(origin: str, is_allowed: bool) -> None:
    async with door(origins=Origins(ALLOWED)) as opened:
        answer = await ask(opened, Origin=origin, Sec_Fetch_Site="cross-site")
        assert answer.status == (200 if is_allowed else 403)
        assert answer.headers.get("access-control-allow-origin") == (origin if is_allowed else None)
        assert answer.headers["vary"] == "Origin"


@pytest.mark.parametrize("origin", [EVIL, "null", None])
async def test_every_page_may_be_allowed(origin: str | None) -> None:
    async with door(origins=Origins(["*"])) as opened:
        headers = {} if origin is None else {"Origin": origin}
        answer = await ask(opened, Sec_Fetch_Site="cross-site", **headers)
        assert (answer.status, answer.headers.get("access-control-allow-origin")) == (200, origin)


@pytest.mark.parametrize(("method", "path"), PATHS)
async def test_preflights_are_answered_on_every_route(method: str, path: str) -> None:
    wanted = "authorization, x-api-key, x-agents, anthropic-version, x-stainless-os"
    async with door(origins=Origins(ALLOWED)) as opened:
        answer = await ask(
            opened,
            "OPTIONS",
            path,
            Origin=ALLOWED[0],
            Access_Control_Request_Method=method,
            Access_Control_Request_Headers=wanted,
            Access_Control_Request_Private_Network="true",
        )
        assert answer.status == 204
        told = {name.removeprefix("access-control-"): value for name, value in answer.headers.items()}
        assert told["allow-origin"] == ALLOWED[0]
        assert told["allow-headers"] == wanted
        assert method in told["allow-methods"].split(", ")
        assert told["allow-private-network"] == "true"
        assert not opened.supervisor.asked


async def test_errors_and_streams_can_be_read_by_allowed_pages() -> None:
    begin = head("Content-Type: text/event-stream", "Transfer-Encoding: chunked", "Connection: close")
    stream: list[Step] = [begin, chunk(said("hi")), chunk(DONE), END, Do.CLOSE]
    unchanged: list[Step] = [head("Access-Control-Allow-Origin: *", "Content-Length: 2") + b"{}", Do.CLOSE]
    async with scripted(stream, unchanged) as server, door(server, origins=Origins(ALLOWED)) as opened:
        lines = [f"Origin: {ALLOWED[0]}", "Content-Type: application/json"]
        missing = await ask(opened, "POST", "/nothing", Origin=ALLOWED[0])
        client = await opened.connect()
        await client.post(
            "/v1/chat/completions",
            {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "stream": True},
            *lines,
        )
        streamed = await client.answer()
        refused = await opened.connect()
        await refused.post("/v1/chat/completions", {}, *lines)
        wrong = await refused.answer()
        passed = await ask(opened, path="/upstream/demo/props", Origin=ALLOWED[0])
    assert (missing.status, streamed.status, wrong.status, passed.status) == (404, 200, 400, 200)
    for answer in (missing, streamed, wrong, passed):
        assert answer.headers["access-control-allow-origin"] == ALLOWED[0]
        assert "X-Request-Id" in answer.headers["access-control-expose-headers"]


# Hosts


def addresses() -> set[str]:
    """This machine's, which may come and go with networks of containers."""
    each = (one for ones in psutil.net_if_addrs().values() for one in ones)
    return {one.address for one in each if one.family is socket.AF_INET}


async def test_addresses_of_this_machine() -> None:
    async with door(origins=Origins(checks_hosts=True)) as opened:
        before = addresses()
        refused = {one for one in before if (await ask(opened, host=one)).status != 200}
        assert not refused & addresses()
        assert refused != before


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LocalHost:8000",
        "localhost.",
        "app.localhost:3",
        "127.0.0.1",
        "127.1.2.3:9",
        "[::1]:8000",
        "0.0.0.0:8000",
        "host.docker.internal:8000",
        socket.gethostname(),
    ],
)
async def test_names_of_this_machine(host: str) -> None:
    async with door(origins=Origins(checks_hosts=True)) as opened:
        for _ in range(2):
            assert (await ask(opened, host=host)).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "evil-localhost",
        "8.8.8.8",
        "[2001:db8::1]",
        "2130706433",
        "llm.example.org.evil.example",
        "example.org",
    ],
)
async def test_names_of_others(host: str) -> None:
    """A page of a name that was made to resolve to this machine is of the same origin for its browser."""
    origins = Origins(hosts=["llm.example.org", "*.lan", "192.0.2.7"], checks_hosts=True)
    async with door(origins=origins) as opened:
        for path in ("/health", "/nothing", "/api/tags"):
            answer = await ask(
                opened, path=path, host=host, Origin=f"http://{host}", Sec_Fetch_Site="same-origin"
            )
            assert answer.status == 403
            assert "allowed_hosts" in answer.body.decode()
        for allowed in ("llm.example.org:1", "LLM.example.org.", "a.b.lan", "192.0.2.7"):
            assert (await ask(opened, host=allowed)).status == 200


async def test_hosts_are_only_checked_where_that_was_asked_for() -> None:
    async with door() as opened:
        assert (await ask(opened, host="gateway:8000")).status == 200
    async with door(origins=Origins(hosts=["gateway"])) as opened:
        assert (await ask(opened, host="gateway:8000")).status == 200
        assert (await ask(opened, host="other:8000")).status == 403


@pytest.mark.parametrize(
    "host",
    [None, "", "a b", "a/b", "user@localhost", "localhost:x", "[::1", "l\xf6calhost", "localhost,evil"],
)
async def test_hosts_that_are_none(host: str | None) -> None:
    async with door(origins=Origins(checks_hosts=True)) as opened:
        assert (await ask(opened, host=host)).status == 400


async def test_the_target_may_name_the_host() -> None:
    async with door(origins=Origins(checks_hosts=True)) as opened:
        assert (await ask(opened, path="http://evil.example/health/live")).status == 403
        assert (await ask(opened, path="http://localhost:8/health/live")).status == 200
        client = await opened.connect()
        await client.send(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
        assert (await client.answer("GET")).status == 400
        old = await opened.connect()
        await old.send(b"GET /health/live HTTP/1.0\r\n\r\n")
        assert (await old.answer("GET")).status == 200
