"""`/openapi.json`: every route of the application is in it, with the schemas of its structs."""

from typing import Any

import pytest
from openapi_spec_validator import validate

from proxy.apis.table import ENDPOINTS
from proxy.openapi import _plain
from tests.proxy.scripted import door


async def document() -> tuple[Any, Any]:
    """The document of the scripted door, and its router."""
    async with door() as opened, opened.session.get("/openapi.json") as answer:
        assert answer.content_type == "application/json"
        return await answer.json(), opened.app.router


async def test_every_route_is_in_it() -> None:
    described, router = await document()
    validate(described)
    for route in router.routes():
        path = route.resource.canonical
        operations = described["paths"][path]
        if route.method == "*":
            assert set(operations) == {"get", "post", "put", "patch", "delete"}
        elif route.method == "HEAD":
            assert {"get", "head"} & set(operations)
        else:
            assert route.method.lower() in operations, path
        assert all(operation["summary"] for operation in operations.values()), path


async def test_nothing_else_is_in_it() -> None:
    described, router = await document()
    routes = {(route.method, route.resource.canonical) for route in router.routes()}
    for path, operations in described["paths"].items():
        for method in operations:
            assert {(method.upper(), path), ("*", path)} & routes


async def test_endpoints_have_the_schemas_of_their_bodies() -> None:
    described, _ = await document()
    for endpoint in ENDPOINTS:
        for path in endpoint.paths:
            operation = described["paths"][path]["post"]
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            name = schema["$ref"].rpartition("/")[2]
            assert "model" in described["components"]["schemas"][name]["properties"]
            assert ("text/event-stream" in operation["responses"]["2XX"]["content"]) == (
                endpoint.generates and endpoint.media_type == "text/event-stream"
            )


async def test_routes_with_structs_have_their_parameters_and_errors() -> None:
    described, _ = await document()
    plan = described["paths"]["/admin/plan"]["get"]
    assert plan["tags"] == ["admin"]
    assert "model" in [one["name"] for one in plan["parameters"] if one["in"] == "query"]
    for path, key in (("/api/chat", "error"), ("/v1/messages", "type"), ("/v1/models", "error")):
        operation = next(iter(described["paths"][path].values()))
        (content,) = operation["responses"]["default"]["content"].values()
        error = described["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
        assert key in error["required"]


@pytest.mark.parametrize(
    ("path", "plain"),
    [
        ("/a", "/a"),
        ("/a/{id:.+}/b", "/a/{id}/b"),
        ("/{again:(?:ui/)?}{digest:[0-9a-f]{16}}/{path:.+}", "/{again}{digest}/{path}"),
    ],
)
def test_patterns_of_parameters_are_taken_out(path: str, plain: str) -> None:
    assert _plain(path) == plain
