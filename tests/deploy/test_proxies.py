"""nginx and Caddy before a real gateway: each token comes through when it is made."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.conftest import DEMO, Start
from tests.deploy import DEPLOY, free_port, program, serving
from tests.gateway import HELLO, until

NGINX = """
daemon off; worker_processes 1; pid {folder}/pid; error_log stderr;
events {{}}
http {{
    access_log off;
    proxy_ignore_headers X-Accel-Buffering;  # by which the gateway would mend what the site does wrong
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    {site}
}}
"""


def nginx(folder: Path, upstream: str, port: int) -> list[str]:
    site = (DEPLOY / "nginx" / "llama-smart-proxy.conf").read_text()
    site = site.replace("server 127.0.0.1:8000;", f"server {upstream};").replace(
        "listen 80;", f"listen 127.0.0.1:{port};"
    )
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, site=site))
    return [program("nginx"), "-e", "stderr", "-c", str(config)]


def caddy(folder: Path, upstream: str, port: int) -> list[str]:
    site = (DEPLOY / "caddy" / "Caddyfile").read_text()
    site = site.replace("127.0.0.1:8000", upstream).replace(
        "llm.example.org {", f"http://llm.example.org:{port} {{"
    )
    config = folder / "Caddyfile"
    config.write_text(f"{{\n\tadmin off\n}}\n{site}")
    return [program("caddy"), "run", "--adapter", "caddyfile", "--config", str(config)]


OPERATORS_ONLY = [
    ("GET", "/metrics"),
    ("GET", "/admin/plan?model=demo"),
    ("GET", "/upstream/demo/props"),
    ("POST", "/v1/agents/rag/documents"),
    ("DELETE", "/v1/agents/rag/collections/default"),
    ("DELETE", "/api/delete"),
    ("POST", "/api/pull"),
    ("POST", "/api/create"),
    ("POST", "/api/blobs/sha256:00"),
]


@pytest.mark.parametrize("before", [nginx, caddy])
def test_a_stream_through_it(
    before: Callable[[Path, str, int], list[str]], start: Start, tmp_path: Path, real_server: None
) -> None:
    models = {
        name: {"path": "builtin:demo", "command": [sys.executable, "-m", "tests.stand_in", "--do", name]}
        for name in ("paced", "silent-mid-stream")
    }
    gateway = start({"demo": DEMO, **models})
    port = free_port()
    proxy = before(tmp_path, gateway.url.removeprefix("http://"), port)
    body = {"model": "silent-mid-stream", "messages": HELLO, "stream": True}
    with (
        serving(proxy, port, tmp_path / "log", **{**os.environ, "HOME": str(tmp_path)}),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"Host": "llm.example.org"}) as client,
    ):
        with client.stream("POST", "/v1/chat/completions", json={**body, "model": "paced"}) as answer:
            times = [time.monotonic() for line in answer.iter_lines() if line.startswith("data: {")]
        assert len(times) == 10
        assert times[-1] - times[0] > 0.5, "each came when it was made"
        with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            lines = answer.iter_lines()  # to drop it would close the connection
            assert next(lines).startswith("data: {")
            assert gateway.model("silent-mid-stream")["busy"] == 1
        until(lambda: gateway.model("silent-mid-stream")["busy"] == 0, "who leaves is known to have left")
        whole = client.post("/v1/chat/completions", json={**body, "model": "demo", "stream": False}).json()
        assert whole["usage"]["completion_tokens"] > 0
        assert client.get("/v1/models").json()["data"][0]["id"] == "demo"
        assert client.get("/metrics").status_code == 200
        stranger = httpx.HTTPTransport(local_address="127.0.0.2")
        with httpx.Client(base_url=client.base_url, headers=client.headers, transport=stranger) as other:
            assert other.get("/v1/agents").status_code == 200
            for method, path in OPERATORS_ONLY:
                assert other.request(method, path).status_code == 403, path
