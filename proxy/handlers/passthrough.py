"""Passes any path to a model's own server unchanged: `/upstream/{model}/...`, and llama.cpp's probes."""

import re
from functools import partial
from urllib.parse import quote, unquote

from aiohttp import HttpVersion11, web

from actors.supervisor import Supervisor
from agents.host.host import AgentHost
from proxy.access.gate import GATE
from proxy.answers.agent_guards import refuse_to_go_around
from proxy.answers.call import ModelCaller, UpstreamRequest
from proxy.answers.client_stream import ClientStream
from proxy.answers.unchanged import Unchanged
from proxy.catalog import Catalog
from proxy.door.bodies import BODIES
from proxy.door.parsing import BASE_PATH
from proxy.door.tap import begin_capture
from proxy.errors import ApiError
from proxy.exchange import Exchange
from proxy.wire.http1 import Head, length_of, list_of
from proxy.wire.upstream import render_request

HOP_BY_HOP = {
    "connection",
    "content-length",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}
"""Headers of a single connection, in addition to those that a Connection header names."""

CREDENTIALS = re.compile(
    r"(.*[-_])?(authorization|authenticate|cookie2?)([-_]token)?"
    r"|(.*[-_])?(access|api|auth|bearer|client|functions|id|private|refresh|secret|security|session|subscription)"
    r"[-_]?(key|token|secret)"
    r"|(x[-_])?(key|token|secret|password|credentials?)"
)
"""Headers with clients' credentials for the gateway or a proxy, which model servers must not get."""

NOT_ON_THE_WAY_IN = HOP_BY_HOP | {
    *("accept-encoding", "content-encoding", "expect", "host"),
    *("traceparent", "tracestate"),
}
"""Headers about the request's body, which is decoded when it is read; and the trace, which may be invalid."""
NOT_ON_THE_WAY_OUT = HOP_BY_HOP | {"date", "server", "set-cookie", "set-cookie2"}

NAME_PARTS = 8
"""Most parts, between slashes, of a model's name."""


class Passing:
    """Passes requests on unchanged, under a lease."""

    def __init__(
        self, supervisor: Supervisor, caller: ModelCaller, catalog: Catalog, agents: AgentHost
    ) -> None:
        self._agents = agents
        self._supervisor = supervisor
        self._caller = caller
        self._catalog = catalog

    async def probe(self, request: web.Request, exchange: Exchange) -> web.StreamResponse:
        """Answer GET /props or /slots of the model that `?model=` names."""
        query = request.query
        exchange.model = query.get("model")
        if not exchange.model:
            raise ApiError(400, "name a model: " + request.path + "?model=NAME", param="model")
        load = query.get("autoload", "true").lower() not in ("false", "0")
        return await self._forward(request, exchange, request.path, slot=False, load=load)

    async def pass_through(self, request: web.Request, exchange: Exchange) -> web.StreamResponse:
        """Answer /upstream/{model}/...: any method, any path of the model's server, unchanged."""
        exchange.model, target = self._split_upstream_path(request)
        if (preset := (known := await self._catalog.find(exchange.model)).preset) is not None:
            message = f"{preset!r} is a preset, and has no server of its own: use /upstream/{known.name}"
            raise ApiError(400, message, code="not_supported", param="model")
        slot = request.method not in ("GET", "HEAD", "OPTIONS")
        return await self._forward(request, exchange, target, slot=slot, load=True)

    def _split_upstream_path(self, request: web.Request) -> tuple[str, str]:
        """Find the model with whose name, which may contain slashes, the path begins; the longest wins."""
        raw, _, query = _target_of(request).partition("?")
        parts = raw.split("/", 2)[-1].split("/")
        names = [unquote("/".join(parts[:count])) for count in range(min(len(parts), NAME_PARTS) + 1)]
        known = (n for n in range(len(names) - 1, 0, -1) if self._supervisor.resolve(names[n]) is not None)
        count = next(known, 2 if len(names) > 2 and self._supervisor.would_adopt(names[2]) else 1)
        target = "/" + "/".join(parts[count:])
        return names[count], f"{target}?{query}" if query else target

    async def _forward(
        self, request: web.Request, exchange: Exchange, target: str, *, slot: bool, load: bool
    ) -> web.StreamResponse:
        """Pass a request on to the model that the exchange names."""
        assert exchange.model is not None
        body = await request.app[BODIES].read(request) if request.can_read_body else None
        headers = headers_in(request)
        headers["X-Request-Id"] = exchange.request_id
        if exchange.trace is not None:
            headers |= exchange.trace.headers
        render = partial(render_request, request.method, target, headers, body)
        known = await self._catalog.find(exchange.model)
        gate = request.app[GATE]
        if known.api == "ollama" and gate.has_keys:
            gate.admit_admin(request, exchange.key)  # the daemon has more models, and can delete them
        if slot:
            begin_capture(request, exchange, lambda: self._catalog.names_meant(known.name), body or b"")
        exchange.generates = slot
        if exchange.key is not None and slot:
            gate.admit(exchange, len(body or b""), None)
        if slot or body:
            refuse_to_go_around(self._agents, known.name, request.path[:200])
        question = UpstreamRequest(known.name, render, slot=slot, load=load, raw=True)
        async with self._caller.call(exchange, question) as call:
            head = _client_head(request, exchange, call.response.head)
            stream = ClientStream(request, exchange, head, None, self._caller.limits)
            await stream.relay(call, Unchanged())
            return stream.head


def _target_of(request: web.Request) -> str:
    """Return path and query unchanged, with percent-encoding, dots and double slashes."""
    target = request.raw_path.partition("#")[0]
    return (
        target if target.startswith("/") else request.rel_url.raw_path_qs
    )  # the request line had a whole URL


def headers_in(request: web.Request) -> dict[str, str]:
    """Return the headers of a request for the model server. Repeated ones are joined with commas."""
    named = set(list_of(",".join(request.headers.getall("Connection", ()))))
    headers: dict[str, str] = {"Accept-Encoding": "identity"}
    for name in dict.fromkeys(name.lower() for name in request.headers):
        if name not in NOT_ON_THE_WAY_IN and name not in named and not CREDENTIALS.fullmatch(name):
            headers[name] = ", ".join(request.headers.getall(name))
    return headers


def headers_out(head: Head) -> dict[str, str]:
    """Return the headers of a model server's answer for the client."""
    named = set(list_of(head.headers.get("connection", "")))
    return {
        name: value
        for name, value in head.headers.items()
        if name not in NOT_ON_THE_WAY_OUT
        and name not in named
        and not name.startswith("access-control-")
        and not CREDENTIALS.fullmatch(name)
    }


def _client_head(request: web.Request, exchange: Exchange, head: Head) -> web.StreamResponse:
    """Make the head of an answer that is passed on unread."""
    client = web.StreamResponse(status=head.status, headers=headers_out(head))
    client.headers.update(exchange.headers)
    if "Location" in client.headers and request.path.startswith("/upstream/"):
        below = f"{request.app.get(BASE_PATH, '')}/upstream/{quote(exchange.model or '')}"
        location = client.headers["Location"]
        if location.startswith("/") and not location.startswith("//"):
            client.headers["Location"] = below + location
    if (length := length_of(head)) is not None:
        client.content_length = length
    elif request.version < HttpVersion11:
        client.force_close()
    return client
