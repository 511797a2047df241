"""nginx, HAProxy and Caddy before a real gateway: each token comes through when it is made."""

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import trustme

from tests.certificates import write_pair
from tests.conftest import DEMO, Start
from tests.deploy import DEPLOY, free_port, program, serving
from tests.gateway import HELLO, until

NGINX = """
{user}daemon off; worker_processes 1; pid {folder}/pid; error_log stderr;
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
    # who may write to the test's folder, where large bodies are kept
    user = "user root; " if os.getuid() == 0 else ""
    config.write_text(NGINX.format(folder=folder, site=site, user=user))
    return [program("nginx"), "-e", "stderr", "-c", str(config)]


def caddy(folder: Path, upstream: str, port: int) -> list[str]:
    site = (DEPLOY / "caddy" / "Caddyfile").read_text()
    site = site.replace("127.0.0.1:8000", upstream).replace(
        "llm.example.org {", f"http://llm.example.org:{port} {{"
    )
    config = folder / "Caddyfile"
    config.write_text(f"{{\n\tadmin off\n}}\n{site}")
    return [program("caddy"), "run", "--adapter", "caddyfile", "--config", str(config)]


def haproxy(folder: Path, upstream: str, port: int) -> list[str]:
    site = (DEPLOY / "haproxy" / "haproxy.cfg").read_text()
    site = site.replace("127.0.0.1:8000", upstream).replace("bind :80", f"bind 127.0.0.1:{port}")
    config = folder / "haproxy.cfg"
    config.write_text(site)
    return [program("haproxy"), "-db", "-f", str(config)]


BEFORE = [nginx, haproxy, caddy]
Before = Callable[[Path, str, int], list[str]]

BEHIND = {"allowed_hosts": ["llm.example.org"]}
"""The section `server` of a gateway on loopback, as the proxies' files say."""

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
    # other spellings that the gateway understands
    ("GET", "/%6detrics"),
    ("GET", "/%75pstream/demo/props"),
    ("GET", "/admin/%70lan?model=demo"),
    ("POST", "/a%70i/pull"),
]


class _Echo(BaseHTTPRequestHandler):
    """Answers with the Host that it was sent."""

    def do_GET(self) -> None:
        body = self.headers.get("Host", "").encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Silence."""


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("path", ["/v1/models", "/metrics"])
def test_the_host_is_passed_on_as_the_client_wrote_it(before: Before, path: str, tmp_path: Path) -> None:
    """With another, an Origin of the same site would be a foreign one to the gateway."""
    port = free_port()
    with ThreadingHTTPServer(("127.0.0.1", 0), _Echo) as upstream:
        thread = threading.Thread(target=upstream.serve_forever)
        thread.start()
        try:
            command = before(tmp_path, f"127.0.0.1:{upstream.server_port}", port)
            with serving(command, port, tmp_path / "log", **{**os.environ, "HOME": str(tmp_path)}):
                host = f"llm.example.org:{port}"
                url = f"http://127.0.0.1:{port}{path}"
                assert httpx.get(url, headers={"Host": host}).text == host
        finally:
            upstream.shutdown()
            thread.join()


@pytest.mark.parametrize("before", BEFORE)
def test_pages_of_the_site_are_served_and_others_are_not(
    before: Before, start: Start, tmp_path: Path
) -> None:
    port = free_port()
    site = f"llm.example.org:{port}"
    for server, status, origin in (
        (BEHIND, 200, f"http://{site}"),
        (BEHIND, 403, "http://evil.example"),
        (BEHIND, 403, f"http://127.0.0.1:{port}"),
        ({}, 403, f"http://{site}"),
    ):
        gateway = start({}, server=dict(server))
        proxy = before(tmp_path, gateway.url.removeprefix("http://"), port)
        with serving(proxy, port, tmp_path / "log", **{**os.environ, "HOME": str(tmp_path)}):
            headers = {"Host": site, "Origin": origin}
            answer = httpx.get(f"http://127.0.0.1:{port}/v1/models", headers=headers)
            assert answer.status_code == status, answer.text


@pytest.mark.parametrize("before", BEFORE)
def test_bodies_of_the_size_that_the_gateway_takes(
    before: Before, start: Start, tmp_path: Path, real_server: None
) -> None:
    gateway = start({"demo": DEMO}, server=dict(BEHIND))
    port = free_port()
    proxy = before(tmp_path, gateway.url.removeprefix("http://"), port)
    with (
        serving(proxy, port, tmp_path / "log", **{**os.environ, "HOME": str(tmp_path)}),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"Host": "llm.example.org"}) as client,
    ):
        # Just below 64 MiB, and above: the first is the gateway's to refuse, for it is no JSON.
        assert client.post("/tokenize", content=b"x" * (64 * 2**20 - 1)).status_code == 400
        with suppress(httpx.WriteError, httpx.ReadError):  # some close before all of it is sent
            assert client.post("/tokenize", content=b"x" * (64 * 2**20 + 1)).status_code == 413


@pytest.mark.parametrize("before", BEFORE)
def test_a_stream_through_it(before: Before, start: Start, tmp_path: Path, real_server: None) -> None:
    models = {
        name: {"path": "builtin:demo", "command": [sys.executable, "-m", "tests.stand_in", "--do", name]}
        for name in ("paced", "silent-mid-stream")
    }
    gateway = start({"demo": DEMO, **models}, server=dict(BEHIND))
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


BELOW = "/llm"


def nginx_below(folder: Path, upstream: str, port: int, certificate: str) -> list[str]:
    """nginx with the changes that docs/deployment.md names."""
    command = nginx(folder, upstream, port)
    config = folder / "nginx.conf"
    text = config.read_text().replace("location / {", f"location {BELOW}/ {{")
    text = text.replace("^/(metrics|", f"^{BELOW}/(metrics|").replace("http://llama", "https://llama")
    verified = f"proxy_ssl_verify on; proxy_ssl_name localhost; proxy_ssl_trusted_certificate {certificate};"
    config.write_text(text.replace("gzip off;", f"gzip off; {verified}"))
    return command


def haproxy_below(folder: Path, upstream: str, port: int, certificate: str) -> list[str]:
    """HAProxy with the changes that docs/deployment.md names."""
    command = haproxy(folder, upstream, port)
    config = folder / "haproxy.cfg"
    text = config.read_text().replace("^/(metrics|", f"^{BELOW}/(metrics|")
    verified = f"{upstream} check ssl verify required ca-file {certificate}"
    config.write_text(text.replace(f"{upstream} check", verified))
    return command


@pytest.mark.parametrize("before", [nginx_below, haproxy_below])
def test_a_gateway_with_tls_and_a_base_path(
    before: Callable[[Path, str, int, str], list[str]], start: Start, tmp_path: Path, real_server: None
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    tls = write_pair(tmp_path, authority=authority)
    pair = {"certificate": tls.certificate, "key": tls.key}
    gateway = start({"demo": DEMO}, server={**BEHIND, "tls": pair, "base_path": BELOW})
    port = free_port()
    upstream = gateway.url.removeprefix("https://").removesuffix(BELOW)
    proxy = before(tmp_path, upstream, port, str(tmp_path / "ca.pem"))
    stranger = httpx.HTTPTransport(local_address="127.0.0.2")
    base = f"http://127.0.0.1:{port}{BELOW}"
    host = {"Host": "llm.example.org"}
    with (
        serving(proxy, port, tmp_path / "log", **{**os.environ, "HOME": str(tmp_path)}),
        httpx.Client(base_url=base, headers=host, transport=stranger) as client,
    ):
        until(lambda: client.get("/health/ready").status_code == 200, "the proxy has found the gateway")
        body = {"model": "demo", "messages": HELLO, "stream": True, "max_tokens": 4}
        with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            assert list(answer.iter_lines())[-2] == "data: [DONE]"
        assert set(client.post("/api/chat", json={"model": "none"}).json()) == {"error"}, "Ollama's form"
        preflight = client.options("/v1/chat/completions")
        assert (preflight.status_code, preflight.headers["allow"]) == (204, "OPTIONS, POST")
        for method, path in OPERATORS_ONLY:
            assert client.request(method, path).status_code == 403, path
