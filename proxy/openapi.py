"""`/openapi.json`: all routes, made from the router, the table of endpoints, and the structs of routes."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from aiohttp import web

from actors.commands.arguments import VERSION
from proxy.admin.routes import Route
from proxy.apis.interface import Dialect, Endpoint
from proxy.apis.table import ENDPOINTS, dialect_of
from proxy.door.parsing import BASE_PATH
from proxy.errors import ApiError

Json = dict[str, Any]
Operation = tuple[str, str]
"""A method in lower case, and a path with its parameters in braces."""

ANY_METHOD = ("get", "post", "put", "patch", "delete")
"""The methods of a route for all methods, as far as they are described."""

REF = "#/components/schemas/{name}"

MEDIA_TYPES = {
    "/": ("text/plain", "text/html"),
    "/metrics": ("text/plain", "application/openmetrics-text"),
    "/unload": ("text/plain",),
    "/api/models/unload/{name}": ("text/plain",),
    "/ui": ("text/html",),
    "/admin/events": ("text/event-stream",),
    "/admin/logs": ("application/x-ndjson",),
    "/admin/logs/{id}": ("application/x-ndjson",),
}
"""Media types of answers that are not JSON."""

FREE = ("/upstream/", "/v1/agents/{agent}/", "/api/", "/ui/")
"""Beginnings of paths whose bodies and answers are a model server's, an agent's or a daemon's, or files."""

QUERIES: Mapping[str, Mapping[str, bool]] = {
    "/props": {"model": True, "autoload": False},
    "/slots": {"model": True, "autoload": False},
}
"""Query parameters of routes that are in no table, and whether they are needed."""

_JSON_TYPES: dict[type, str] = {dict: "object", list: "array"}
_NOT_IN_IDS = re.compile(r"[^a-z0-9]+")
_PATH_PARAMETER = re.compile(r"\{(\w+)\}")


class OpenApi:
    """Describes an application. `routes` are those of its routes that have structs."""

    def __init__(self, app: web.Application, routes: Iterable[Route]) -> None:
        self._app = app
        self._endpoints = {path: endpoint for endpoint in ENDPOINTS for path in endpoint.paths}
        self._routes: dict[Operation, Route] = {
            (route.method.lower(), _plain(route.path)): route for route in routes
        }
        self._document = b""

    async def show(self, _request: web.Request) -> web.Response:
        """Describe all routes as an OpenAPI document."""
        if not self._document:
            self._document = msgspec.json.encode(self.document())
        return web.Response(body=self._document, content_type="application/json")

    def document(self) -> Json:
        """Make the document."""
        structs = _Structs(self._kinds())
        paths: dict[str, Json] = {}
        for method, path, handler in _operations(self._app.router):
            paths.setdefault(path, {})[method] = self._operation(method, path, handler, structs)
        return {
            "openapi": "3.1.0",
            "info": {
                "title": "Llama Smart Proxy",
                "version": VERSION,
                "description": "One address for local language models. Names of models in paths may contain "
                "slashes, which are sent as they are.",
            },
            "servers": [{"url": self._app.get(BASE_PATH, "") or "/"}],
            "security": [{"bearer": []}, {"key": []}, {}],
            "paths": paths,
            "components": {
                "schemas": {**structs.components, **_error_schemas()},
                "securitySchemes": {
                    "bearer": {"type": "http", "scheme": "bearer"},
                    "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                },
            },
        }

    def _kinds(self) -> list[Any]:
        """Return all types that need a schema."""
        kinds: list[Any] = [endpoint.request for endpoint in ENDPOINTS]
        for route in self._routes.values():
            kinds += [kind for kind in (route.answer, route.body) if kind is not None]
            kinds += [field.type for field in _fields(route.query)]
        return kinds

    def _operation(self, method: str, path: str, handler: Any, structs: "_Structs") -> Json:
        endpoint = self._endpoints.get(path) if method == "post" else None
        route = self._routes.get((method, path))
        dialect = dialect_of(path)
        described: Json = {
            "operationId": _NOT_IN_IDS.sub("_", f"{method} {path}".lower()).strip("_"),
            "summary": _summary(endpoint, handler),
            "tags": [_tag(path, dialect, endpoint)],
            "parameters": _parameters(path, route, structs),
            "responses": {
                "2XX": _answer(path, endpoint, route, structs),
                "default": _failure(path, dialect),
            },
        }
        body = _body(method, path, endpoint, route, structs)
        if body is not None:
            described["requestBody"] = body
        return described


class _Structs:
    """The schemas of all types."""

    def __init__(self, kinds: Iterable[Any]) -> None:
        unique = list({repr(kind): kind for kind in kinds}.values())
        schemas, self.components = msgspec.json.schema_components(unique, ref_template=REF)
        self._schemas = dict(zip(map(repr, unique), schemas, strict=True))

    def schema(self, kind: Any) -> Json:
        """Return the schema of a type, which may refer to `components`."""
        return self._schemas[repr(kind)]


def _operations(router: web.UrlDispatcher) -> Iterable[tuple[str, str, Any]]:
    """Yield method, path and handler of all routes. GET stands for HEAD too."""
    for resource in router.resources():
        routes = {route.method: route for route in resource}
        for method, route in routes.items():
            if method == "HEAD" and "GET" in routes:
                continue
            for one in ANY_METHOD if method == "*" else (method.lower(),):
                yield one, resource.canonical, route.handler


def _plain(path: str) -> str:
    """Take the patterns out of the parameters of a path."""
    return re.sub(r"\{(\w+):[^{}]*(\{[^{}]*\}[^{}]*)*\}", r"{\1}", path)


def _fields(query: Any) -> tuple[msgspec.structs.FieldInfo, ...]:
    return () if query is None else msgspec.structs.fields(query)


def _summary(endpoint: Endpoint | None, handler: Any) -> str:
    if endpoint is None:
        return (handler.__doc__ or "").partition("\n")[0].strip()
    if endpoint.counter is not None:
        return "Count the tokens of a prompt."
    if endpoint.embedder is not None:
        return "Embed texts."
    return "Ask a model for an answer." if endpoint.generates else "Ask a model's server."


def _tag(path: str, dialect: Dialect, endpoint: Endpoint | None) -> str:
    if path.startswith("/admin"):
        return "admin"
    if endpoint is not None or path.startswith("/api/"):
        return dialect.name
    return "agents" if path.startswith("/v1/agents") else "gateway"


def _parameters(path: str, route: Route | None, structs: _Structs) -> list[Json]:
    text = {"type": "string"}
    found: list[Json] = [
        {"name": name, "in": "path", "required": True, "schema": {**text, "minLength": 1}}
        for name in _PATH_PARAMETER.findall(path)
    ]
    for name, needed in QUERIES.get(path, {}).items():
        found.append({"name": name, "in": "query", "required": needed, "schema": text})
    fields = _fields(None if route is None else route.query)
    return found + [
        {
            "name": field.encode_name,
            "in": "query",
            "required": field.required,
            "schema": structs.schema(field.type),
        }
        for field in fields
    ]


def _body(
    method: str, path: str, endpoint: Endpoint | None, route: Route | None, structs: _Structs
) -> Json | None:
    kind = endpoint.request if endpoint is not None else None if route is None else route.body
    if kind is not None:
        return {"required": True, "content": {"application/json": {"schema": structs.schema(kind)}}}
    if route is None and method in ("post", "put", "patch") and path.startswith(FREE):
        return {"content": {"application/json": {}, "application/octet-stream": {}}}
    return None


def _answer(path: str, endpoint: Endpoint | None, route: Route | None, structs: _Structs) -> Json:
    """Describe the answers of status 200 to 299."""
    described: Json = {"description": "Done."}
    if endpoint is not None:
        kinds = [_JSON_TYPES[kind] for kind in endpoint.kinds]
        described["content"] = {"application/json": {"schema": {"type": kinds}}}
        if endpoint.generates:
            described["content"][endpoint.media_type] = {}
    elif (media_types := MEDIA_TYPES.get(path)) is not None:
        described["content"] = {media_type: {} for media_type in media_types}
    elif route is not None:
        if route.answer is not None:
            described["content"] = {"application/json": {"schema": structs.schema(route.answer)}}
    elif path.startswith(FREE):
        described["content"] = {"*/*": {}}
    else:
        described["content"] = {"application/json": {"schema": {"type": "object"}}}
    return described


# Errors


def _failure(path: str, dialect: Dialect) -> Json:
    """Describe the answers of all other statuses. Probes report with 503 what is missing."""
    described: Json = {"description": "An error, in the form of the API."}
    if path.startswith("/upstream/"):
        described["content"] = {"*/*": {}}
    else:
        schema = {"type": "object"} if "/health" in path else {"$ref": REF.format(name=_error(dialect))}
        described["content"] = {"application/json": {"schema": schema}}
    return described


def _error(dialect: Dialect) -> str:
    return f"Error_{dialect.name}"


def _error_schemas() -> dict[str, Json]:
    """Return the schema of each dialect's errors, by what a dialect makes of an error."""
    dialects = {dialect.name: dialect for dialect in map(dialect_of, ["/", *(one.path for one in ENDPOINTS)])}
    sample = ApiError(400, "what is wrong", code="invalid_value", param="model")
    return {_error(dialect): _shape(dialect.body(sample, "id")) for dialect in dialects.values()}


def _shape(value: Any) -> Json:
    """Return the schema of a JSON value like this one: its keys, and which of them have texts for people."""
    if not isinstance(value, dict):
        return {}
    properties = {key: _shape(item) for key, item in value.items()}
    for key in ("message", "error"):
        if isinstance(value.get(key), str):
            properties[key] = {"type": "string"}
    return {"type": "object", "properties": properties, "required": list(value)}
