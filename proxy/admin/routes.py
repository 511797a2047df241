"""What a route of `/admin` is."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
from aiohttp import web

from actors.errors import located
from proxy.errors import ApiError

T = TypeVar("T")


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """A method and path with its handler, whose docstring's first line says what it does.

    `answer`, `body` and `query` are the types of the JSON answer, the JSON body and the query parameters;
    None where there are none.
    """

    method: str
    path: str
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    answer: object = None
    body: object = None
    query: object = None


def json_answer(answer: object, *, status: int = 200) -> web.Response:
    """Make a response from a struct."""
    return web.Response(status=status, body=msgspec.json.encode(answer), content_type="application/json")


def read_query(request: web.Request, kind: type[T]) -> T:
    """Read the query parameters into a struct. Raises `ApiError`."""
    try:
        return msgspec.convert(dict(request.query), kind, strict=False)
    except msgspec.ValidationError as error:
        problem, param = located(error)
        raise ApiError(400, f"the query cannot be used: {problem}", param=param or None) from None
