"""The aiohttp application: routes, the one middleware, and the server that runs it."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from aiohttp import web

from proxy.agent_views import AgentViews
from proxy.endpoints import ENDPOINTS, PROBES, Endpoint, dialect_of
from proxy.errors import ApiError
from proxy.exchange import EXCHANGE, Account, Exchange, request_id_of
from proxy.generate import Gateway
from proxy.metrics import Metrics
from proxy.ollama import OllamaApi
from proxy.passing import Passing
from proxy.views import Views

log = structlog.get_logger("door")

BACKLOG = 1024
"""Connections that the kernel holds for us."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

ACCOUNTS = web.AppKey("accounts", tuple[Account, ...])
"""Who is told of each finished request."""


def make_app(
    gateway: Gateway,
    passing: Passing,
    views: Views,
    ollama: OllamaApi,
    agents: AgentViews,
    metrics: Metrics,
) -> web.Application:
    """All the routes. A path that has none is answered in OpenAI's words, or its API's own."""
    app = web.Application(middlewares=[_door], client_max_size=gateway.limits.body)
    app[ACCOUNTS] = (metrics.account,)
    router = app.router
    for path, view in (
        ("/health", views.health),
        ("/health/live", views.live),
        ("/health/ready", views.ready),
        ("/v1/models", views.models),
        ("/models", views.models),
        ("/v1/models/{name:.+}", views.model),
        ("/admin/plan", views.plan),
        ("/metrics", metrics.page),
    ):
        router.add_get(path, _quiet(view))
    for endpoint in ENDPOINTS:
        for path in (endpoint.path, *endpoint.aliases):
            router.add_post(path, _answerer(gateway, endpoint))
    ollama.add_routes(router, _quiet)
    router.add_get("/v1/agents", _quiet(agents.listed))
    router.add_get("/v1/agents/{agent}", _quiet(agents.described))
    router.add_route("*", "/v1/agents/{agent}/{path:.+}", agents.operate)
    for path in PROBES:
        router.add_get(path, _with_exchange(passing.probe))
    router.add_route("*", "/upstream/{rest:.+}", _with_exchange(passing.pass_through))
    return app


def _answerer(gateway: Gateway, endpoint: Endpoint) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        return await gateway.answer(request, request[EXCHANGE], endpoint)

    return handle


def _with_exchange(handler: Callable[[web.Request, Exchange], Awaitable[web.StreamResponse]]) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        return await handler(request, request[EXCHANGE])

    return handle


def _quiet(view: Handler) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        request[EXCHANGE].quiet = True
        return await view(request)

    return handle


@web.middleware
async def _door(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give every request its id, its one line in the log, and its error in its dialect."""
    request_id = request_id_of(request.headers.get("X-Request-Id"))
    exchange = Exchange(request.method, request.path, request_id, request.app[ACCOUNTS])
    if (resource := request.match_info.route.resource) is not None:
        exchange.endpoint = resource.canonical
    request[EXCHANGE] = exchange
    try:
        response = await handler(request)
        exchange.status = exchange.status or response.status
        if not response.prepared:
            response.headers.update(exchange.headers)
        return response
    except asyncio.CancelledError:
        exchange.client_left()
        raise
    except ConnectionResetError:
        exchange.client_left()
        raise
    except ApiError as error:
        return _error_response(request, exchange, error)
    except web.HTTPException as error:
        return _error_response(request, exchange, _from_http(request, error))
    except Exception:  # the boundary of a request: nobody is shown a traceback
        log.exception("request could not be handled", request_id=request_id, path=request.path)
        message = f"internal error; the log has the reason under request id {request_id}"
        return _error_response(request, exchange, ApiError(500, message))
    finally:
        exchange.finish()


def _from_http(request: web.Request, error: web.HTTPException) -> ApiError:
    if error.status == 404:
        return ApiError(404, f"there is no {request.method} {request.path}", code="not_found")
    if error.status == 405:
        allowed = error.headers.get("Allow", "")
        message = f"{request.path} takes {allowed}, not {request.method}"
        return ApiError(405, message, code="method_not_allowed")
    return ApiError(error.status, error.reason)


def _error_response(request: web.Request, exchange: Exchange, error: ApiError) -> web.Response:
    exchange.failed(error)
    if request.writer.output_size > 0:
        # The answer has begun. Only a cut can tell now that it is not whole.
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the answer had begun")
    dialect = dialect_of(request.path)
    error = dialect.reword(error, exchange.model or "")
    headers = exchange.headers
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return web.json_response(dialect.body(error, exchange.request_id), status=error.status, headers=headers)


class _Protocol(web.RequestHandler):
    """Answers what is not even HTTP with JSON too, and without a traceback in the log.

    It tells the relay at once when the client does not keep up, which saves a question per event.
    """

    __slots__ = ("_accounts", "on_pause")

    def __init__(self, manager: "_Server", **options: Any) -> None:
        super().__init__(manager, **options)
        self._accounts = manager.accounts
        self.on_pause: Callable[[], None] | None = None

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.on_pause is not None:
            self.on_pause()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("the response has begun; no other can follow")
        exchange = Exchange(request.method, request.path, request_id_of(None), self._accounts)
        text = (message or str(exc) or "bad request").strip().splitlines()[0][:300]
        error = ApiError(status, f"the request cannot be read: {text}", code="bad_http")
        exchange.failed(error)
        exchange.finish()
        body = dialect_of(request.path).body(error, exchange.request_id)
        response = web.json_response(body, status=status, headers={"X-Request-Id": exchange.request_id})
        response.force_close()
        return response


class _Server(web.Server):
    """An aiohttp server of our protocols."""

    accounts: tuple[Account, ...]

    def __call__(self) -> web.RequestHandler:
        return _Protocol(self, loop=self._loop, **self._kwargs)


class _Runner(web.AppRunner):
    """An aiohttp runner whose server makes our protocols."""

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        server.__class__ = _Server
        assert isinstance(server, _Server)
        server.accounts = self._app[ACCOUNTS]
        return server


def listening(host: str, port: int) -> list[socket.socket]:
    """Sockets for every address of `host`, that take connections from now on. Raises `OSError`.

    Apart from serving them, so that a gateway that cannot have its address has touched nothing.
    """
    sockets: list[socket.socket] = []
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            one = socket.socket(family, kind, protocol)
            sockets.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.bind(address)
            one.listen(BACKLOG)
            one.setblocking(False)
    except OSError:
        for one in sockets:
            one.close()
        raise
    return sockets


def make_runner(app: web.Application) -> web.AppRunner:
    """The runner of the front door.

    A handler is cancelled when its client leaves: everything behind it relies on that, and aiohttp
    leaves it off in production although its test server turns it on.
    """
    return _Runner(
        app,
        handler_cancellation=True,
        access_log=None,
        keepalive_timeout=75.0,
        handle_signals=False,
        shutdown_timeout=2.0,
    )
