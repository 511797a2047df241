"""Any path of a model's own server, unchanged: `/upstream/{model}/...`, and llama.cpp's probes."""

from functools import partial

from aiohttp import web

from actors.supervisor import Supervisor
from agents.host import AgentHost
from proxy import answers
from proxy.asking import Asker
from proxy.bodies import BODIES
from proxy.catalog import Catalog
from proxy.errors import ApiError
from proxy.exchange import Exchange
from proxy.upstream import render_request
from proxy.with_agents import refuse_to_go_around

FORBIDDEN_IN = {
    "authorization",
    "connection",
    "content-length",
    "cookie",
    "expect",
    "host",
    "keep-alive",
    "accept-encoding",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-api-key",
}


class Passing:
    """Passes requests on as they are, under a lease."""

    def __init__(self, supervisor: Supervisor, asker: Asker, catalog: Catalog, agents: AgentHost) -> None:
        self._agents = agents
        self._supervisor = supervisor
        self._asker = asker
        self._catalog = catalog

    async def probe(self, request: web.Request, exchange: Exchange) -> web.StreamResponse:
        """Answer GET /props or /slots of the model that `?model=` names."""
        query = request.query
        exchange.model = query.get("model")
        if not exchange.model:
            raise ApiError(400, "name a model: " + request.path + "?model=NAME", param="model")
        load = query.get("autoload", "true").lower() not in ("false", "0")
        return await self._forward(request, exchange, exchange.model, request.path, slot=False, load=load)

    async def pass_through(self, request: web.Request, exchange: Exchange) -> web.StreamResponse:
        """Answer /upstream/{model}/...: any method, any path of the model's server, unchanged."""
        model, target = self._split_upstream_path(request)
        exchange.model = model
        slot = request.method not in ("GET", "HEAD", "OPTIONS")
        return await self._forward(request, exchange, model, target, slot=slot, load=True)

    def _split_upstream_path(self, request: web.Request) -> tuple[str, str]:
        """Find the model whose name, which may contain slashes, the path begins with; the longest wins."""
        rest = request.match_info["rest"]
        parts = rest.split("/")
        known = (
            n for n in range(len(parts), 0, -1) if self._supervisor.resolve("/".join(parts[:n])) is not None
        )
        count = next(known, 2 if self._supervisor.would_adopt("/".join(parts[:2])) else 1)
        raw = request.rel_url.raw_path.split("/")
        target = "/" + "/".join(raw[2 + count :])
        query = request.rel_url.raw_query_string
        return "/".join(parts[:count]), f"{target}?{query}" if query else target

    async def _forward(
        self, request: web.Request, exchange: Exchange, model: str, target: str, *, slot: bool, load: bool
    ) -> web.StreamResponse:
        body = await request.app[BODIES].read(request) if request.can_read_body else None
        headers = {name: value for name, value in request.headers.items() if name.lower() not in FORBIDDEN_IN}
        headers["X-Request-Id"] = exchange.request_id
        ask = partial(render_request, request.method, target, headers, body)
        known = await self._catalog.find(model)
        if slot or body:
            refuse_to_go_around(self._agents, known.name, request.path[:200])
        async with self._asker.response(exchange, known.name, ask, slot=slot, load=load) as (lease, response):
            return await answers.relayed(
                request,
                exchange,
                lease,
                response,
                answers.raw_response(request, exchange, response),
                write_timeout=self._asker.limits.write_timeout,
            )
