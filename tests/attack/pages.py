"""What a web page of a stranger can send from a browser, and what must pass all the same."""

import json
from collections.abc import Iterator

from tests.attack.ground import Gateway, body_of

EVIL = "https://evil.example"
PLAIN = {"Content-Type": "text/plain"}
STRANGERS: tuple[dict[str, str], ...] = (
    {"Host": "evil.example"},
    {"Host": "evil.example:8000"},
    {"Host": "127.0.0.1.evil.example"},
    {"Host": "localhost.evil.example"},
    {"Host": "evil.example."},
    {"Origin": EVIL},
    {"Origin": "null"},
    {"Origin": "http://localhost.evil.example"},
    {"Origin": "http://127.0.0.1:1"},
    {"Origin": "http://127.0.0.1.evil.example"},
    {"Origin": f"{EVIL} http://127.0.0.1"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "Cross-Site"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
    {"Origin": EVIL, "Sec-Fetch-Site": "same-origin"},
)
POSTS = (
    "/v1/chat/completions",
    "/v1/messages",
    "/v1/responses",
    "/api/chat",
    "/api/generate",
    "/upstream/faulty/v1/chat/completions",
    "/api/pull",
    "/api/delete",
    "/v1/agents/rag/documents",
    "/admin/models/demo/load",
    "/admin/models/demo/unload",
    "/admin/keys",
    "/admin/hub/pull",
    "/admin/reload",
    "/admin/drain",
    "/models/unload",
    "/api/models/unload",
    "/unload",
    "/nothing/here",
)
GETS = (
    "/v1/models",
    "/upstream/demo/props",
    "/props?model=demo",
    "/api/tags",
    "/admin/plan?model=demo",
    "/admin/events",
    "/admin/requests",
    "/admin/logs",
    "/admin/keys",
    "/running",
    "/unload",
    "/metrics",
)


def attack(gateway: Gateway) -> Iterator[str]:
    """Send all of it; yield what was served."""
    for headers in STRANGERS:
        for path in POSTS:
            for kind in (PLAIN, {}):
                content = _json(path)
                answer = gateway.client.request("POST", path, content=content, headers={**kind, **headers})
                if answer.status_code != 403:
                    yield f"POST {path} {headers}: {answer.status_code} {answer.text[:100]}"
        for path in GETS:
            answer = gateway.client.get(path, headers=headers)
            if answer.status_code != 403:
                yield f"GET {path} {headers}: {answer.status_code} {answer.text[:100]}"
    preflight = {"Origin": EVIL, "Access-Control-Request-Method": "POST"}
    answer = gateway.client.options("/v1/chat/completions", headers=preflight)
    if "access-control-allow-origin" in answer.headers:
        yield f"a stranger's preflight: {answer.status_code} {dict(answer.headers)}"
    for host in (
        f"127.0.0.1:{gateway.port}",
        f"localhost:{gateway.port}",
        "localhost",
        "[::1]:80",
        "LOCALHOST",
    ):
        for own in (
            {},
            {"Origin": f"http://{host}"},
            {"Sec-Fetch-Site": "same-origin"},
            {"Sec-Fetch-Site": "none"},
        ):
            answer = gateway.client.get("/v1/models", headers={"Host": host, **own})
            if answer.status_code != 200:
                yield f"a friend with Host {host} {own}: {answer.status_code} {answer.text[:100]}"


def _json(path: str) -> bytes:
    return json.dumps(body_of(path.removeprefix("/upstream/faulty"), "do:good", model="faulty")).encode()
