"""A stand-in for a company's HTTP proxy, which alone can reach the hosts that it is told of."""

import http.client
import threading
from collections.abc import Mapping
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import SplitResult, urlsplit


class StandInProxy:
    """The proxy while the `with` block lasts. `hosts`: the port on this machine that stands for each host."""

    def __init__(self, hosts: Mapping[str, int]) -> None:
        self.hosts = hosts
        self.asked: list[str] = []
        """The host of each request; of one for a tunnel, with its port."""
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                proxy.forward(self)

            do_HEAD = do_POST = do_GET  # noqa: N815 (the names that http.server looks for)

            def do_CONNECT(self) -> None:
                proxy.asked.append(self.path)
                self.send_error(403, "no tunnels here")

            def log_message(self, format: str, *_arguments: object) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def forward(self, client: BaseHTTPRequestHandler) -> None:
        url = urlsplit(client.path)
        host = str(url.hostname)
        self.asked.append(host)
        client.close_connection = True
        if host not in self.hosts:
            client.send_error(502, f"cannot reach {host}")
            return
        server = http.client.HTTPConnection("127.0.0.1", self.hosts[host], timeout=10)
        with closing(server), suppress(ConnectionError):
            self._exchange(client, server, url)

    @staticmethod
    def _exchange(
        client: BaseHTTPRequestHandler, server: http.client.HTTPConnection, url: SplitResult
    ) -> None:
        path = f"{url.path}?{url.query}" if url.query else url.path
        headers = {name: value for name, value in client.headers.items() if name.lower() != "host"}
        server.request(client.command, path, headers={**headers, "Host": url.netloc})
        answer = server.getresponse()
        client.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding"):
                client.send_header(name, value)
        client.send_header("Connection", "close")
        client.end_headers()
        while piece := answer.read1():
            client.wfile.write(piece)
