"""The aiohttp application: routes, and the one middleware."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from functools import wraps

import msgspec
import structlog
from aiohttp import web

from actors.config.masking import mask_text
from proxy.access.gate import GATE, Gate
from proxy.admin.live.parts import LiveState
from proxy.admin.other_routers import CONTROLS
from proxy.admin.routes import Route
from proxy.apis.interface import Endpoint
from proxy.apis.llama_cpp.endpoints import PROBES
from proxy.apis.responses.client_errors import RESPONSES
from proxy.apis.table import ENDPOINTS, dialect_of
from proxy.door.bodies import BODIES, Bodies
from proxy.door.origins import METHODS, Origins
from proxy.door.parsing import REFUSED
from proxy.door.tap import end_capture
from proxy.errors import ApiError, not_allowed
from proxy.exchange import EXCHANGE, Account, Exchange, request_id_of
from proxy.handlers.agents import AgentViews
from proxy.handlers.generate import Generate
from proxy.handlers.health import Views
from proxy.handlers.models import ModelViews
from proxy.handlers.ollama_models import OllamaApi
from proxy.handlers.passthrough import Passing
from proxy.handlers.readiness import Readiness
from proxy.handlers.responses.routes import Responses
from proxy.metrics import Metrics
from proxy.openapi import OpenApi
from proxy.page.serving import PageViews
from proxy.running import REQUESTS
from proxy.wire.trace_context import TRACE, trace_of

log = structlog.get_logger("door")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

ACCOUNTS = web.AppKey("accounts", tuple[Account, ...])
"""The accounts that get each finished request."""
ORIGINS = web.AppKey("origins", Origins)
"""The application's check of origins and hosts."""


class Handlers(msgspec.Struct, frozen=True, kw_only=True):
    """The handlers, each for a group of routes."""

    generate: Generate
    passing: Passing
    views: Views
    models: ModelViews
    readiness: Readiness
    ollama: OllamaApi
    agents: AgentViews
    responses: Responses
    metrics: Metrics
    live: LiveState
    page: PageViews
    admin: tuple[Route, ...]


def make_app(
    handlers: Handlers, origins: Origins, gate: Gate, accounts: tuple[Account, ...]
) -> web.Application:
    """Make the application with all routes. `accounts` get each finished request.

    An unknown path is answered in the dialect of its API, or OpenAI's.
    """
    views, models, agents, passing = handlers.views, handlers.models, handlers.agents, handlers.passing
    app = web.Application(middlewares=[_door])
    app[ACCOUNTS] = accounts
    app.on_shutdown.append(handlers.live.close)
    app[GATE] = gate
    app[REQUESTS] = handlers.live.running
    app[BODIES] = Bodies(handlers.generate.limits.body)
    app[ORIGINS] = origins
    app.on_response_prepare.append(origins.tell)
    router = app.router
    for path, view in (
        ("/health", views.health),
        ("/v1/health", views.health),
        ("/health/live", views.live),
        ("/health/ready", handlers.readiness.ready),
        ("/v1/models", models.listed),
        ("/models", models.listed),
        ("/v1/models/{name:.+}", models.described),
        ("/models/{name:.+}", models.described),
        ("/metrics", handlers.metrics.page),
    ):
        router.add_get(path, _quiet(view))
    for route in (*handlers.live.routes, *handlers.admin):
        reads = route.method == "GET"
        router.add_route(route.method, route.path, _quiet(route.handler) if reads else route.handler)
    for endpoint in ENDPOINTS:
        for path in endpoint.paths:
            answer = handlers.responses if endpoint.dialect is RESPONSES else handlers.generate
            router.add_post(path, _answerer(answer, endpoint))
    router.add_get("/", _quiet(handlers.page.or_else(handlers.ollama.root)))
    handlers.page.add_routes(router, _quiet)
    handlers.ollama.add_routes(router, _quiet)
    handlers.responses.add_routes(router)
    router.add_get("/v1/agents", _quiet(agents.listed))
    router.add_get("/v1/agents/{agent}", _quiet(agents.described))
    router.add_route("*", "/v1/agents/{agent}/{path:.+}", agents.operate)
    for path in PROBES:
        router.add_get(path, _with_exchange(passing.probe))
    router.add_route("*", "/upstream/{rest:.+}", _with_exchange(passing.pass_through))
    router.add_get("/openapi.json", _quiet(OpenApi(app, (*handlers.live.routes, *handlers.admin)).show))
    return app


def _answerer(generate: Generate | Responses, endpoint: Endpoint) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        return await generate.answer(request, request[EXCHANGE], endpoint)

    return handle


def _with_exchange(handler: Callable[[web.Request, Exchange], Awaitable[web.StreamResponse]]) -> Handler:
    @wraps(handler)
    async def handle(request: web.Request) -> web.StreamResponse:
        return await handler(request, request[EXCHANGE])

    return handle


def _quiet(view: Handler) -> Handler:
    @wraps(view)
    async def handle(request: web.Request) -> web.StreamResponse:
        request[EXCHANGE].quiet = True
        return await view(request)

    return handle


PUBLIC = {"/", "/ui", "/health", "/v1/health", "/health/live", "/health/ready", "/api/version"}
"""Paths that need no key: probes, the page, and what clients ask to find out what the gateway is."""

OLLAMA_STORE = ("/api/pull", "/api/delete", "/api/copy", "/api/create", "/api/push", "/api/blobs")
"""Paths that change the models on the disk. If there are keys, they need an admin key."""

READS = ("GET", "HEAD", "OPTIONS")
"""Methods of requests that only read, which have no row in the ledger."""


def _identify(request: web.Request, exchange: Exchange) -> None:
    """Note the request's key. Raises `ApiError` if it needs one, or another one."""
    gate = request.app[GATE]
    required = request.path not in PUBLIC and not request.path.startswith("/ui/")
    exchange.key = gate.identify(request.headers, required=required)
    if not required:
        return
    controls = (request.method, exchange.endpoint) in CONTROLS
    exchange.recorded = controls or (request.method not in READS and exchange.endpoint != "unknown")
    is_admin, is_store = controls or request.path.startswith("/admin"), request.path.startswith(OLLAMA_STORE)
    if exchange.recorded and (is_admin or is_store):
        exchange.action = mask_text(f"{request.method} {request.path_qs}")
    if is_admin or (is_store and gate.has_keys):
        gate.admit_admin(request, exchange.key)
    elif request.path == "/metrics" and not gate.sees_all(exchange.key):
        raise ApiError(403, "the metrics are of all models, which this API key may not see", code="forbidden")


_TWO_BASES = re.compile("(/v1|/api)/(v1|api)/")


@web.middleware
async def _door(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give every request its id, its log line, and its errors in its API's dialect."""
    request_id = request_id_of(request.headers.get("X-Request-Id"))
    exchange = Exchange(request.method, request.path, request_id, request.app[ACCOUNTS])
    if (resource := request.match_info.route.resource) is not None:
        exchange.endpoint = resource.canonical
    request[EXCHANGE] = exchange
    exchange.trace = trace_of(request.headers) if "traceparent" in request.headers else None
    TRACE.set(exchange.trace)  # also None: the connection's earlier requests may have had one
    origins, running = request.app[ORIGINS], request.app[REQUESTS]
    running.add(exchange)
    try:
        if REFUSED in request:
            raise request[REFUSED]
        origins.admit(request)
        response: web.StreamResponse | None = origins.preflight(request)
        if response is None:
            _identify(request, exchange)
            response = await handler(request)
        exchange.status = exchange.status or response.status
        if not response.prepared:
            response.headers.update(exchange.headers)
        end_capture(request, exchange, response)
        return response
    except asyncio.CancelledError:
        if (cancellation := exchange.take_cancellation()) is not None:
            return _error_response(request, exchange, cancellation)
        exchange.client_left()
        raise
    except ConnectionResetError:
        exchange.client_left()
        raise
    except ApiError as error:
        return _error_response(request, exchange, error)
    except web.HTTPException as error:
        return _error_response(request, exchange, _from_http(request, error))
    except Exception:  # the boundary of a request: a client never sees a traceback
        log.exception("request could not be handled", request_id=request_id, path=request.path)
        message = f"internal error; the log has the reason under request id {request_id}"
        return _error_response(request, exchange, ApiError(500, message))
    finally:
        running.remove(exchange)
        request.app[BODIES].release(request)
        end_capture(request, exchange, None)
        exchange.finish()


def _from_http(request: web.Request, error: web.HTTPException) -> ApiError:
    if isinstance(error, web.HTTPMethodNotAllowed):
        return not_allowed(request.method, request.path, error.allowed_methods)
    if request.path == "*":
        return not_allowed(request.method, "*", METHODS.split(", "))
    if error.status == 404:
        hint = ""
        if (twice := _TWO_BASES.match(request.path)) is not None:
            hint = f"; leave {twice[1]} out of the base URL of the client"
        return ApiError(404, f"there is no {request.method} {request.path}{hint}", code="not_found")
    return ApiError(error.status, error.reason)


def _error_response(request: web.Request, exchange: Exchange, error: ApiError) -> web.Response:
    if request.method == "OPTIONS" and "Allow" in error.headers:
        exchange.status, exchange.quiet = 204, True
        return web.Response(status=204, headers={**exchange.headers, **error.headers})
    exchange.failed(error)
    if request.writer.output_size > 0:
        # The answer has begun, so only a closed connection can show that it is incomplete.
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the answer had begun")
    headers = {**exchange.headers, **error.headers}
    dialect = dialect_of(request.path, request.headers)
    error = dialect.reword(error, exchange.model or "")
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    response = web.json_response(
        dialect.body(error, exchange.request_id), status=error.status, headers=headers
    )
    end_capture(request, exchange, response)
    if not request.content.is_eof():
        response.force_close()  # what it still sends is nothing that anybody reads
    return response
