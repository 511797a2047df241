"""Completes aiohttp's parser: stray slashes, other HTTP versions, `Expect`, and unreadable requests."""

import re
from collections.abc import Callable
from typing import Any

from aiohttp import HttpVersion11, web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import ERROR
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from proxy.door.bodies import CONTINUES
from proxy.errors import ApiError

LINE_LIMIT = 8190
"""Most bytes of a path with its query, and of a header: aiohttp's own limits."""
BEGINNING = LINE_LIMIT + 100
"""Number of leading bytes of a request in which method and path are searched."""

REFUSED = web.RequestKey("refused", ApiError)
"""The error of a request that can be read, but is not served: of another HTTP version, or a foreign path."""

BASE_PATH = web.AppKey("base path", str)
"""What the paths of the gateway begin with, in links."""

PROBES = ("/health/live", "/health/ready")
"""Paths that are also served outside the base path, for who watches the process itself."""

_SLASHES = re.compile("/{2,}")
_UPSTREAM = re.compile("/+upstream/+")
_FIRST_LINE = re.compile(rb"[\r\n]*([A-Za-z]{1,20}) +(?:https?://[^/?# \r\n]*)?(/[!\"$->@-~]*)")


def make_request(
    make: Callable[..., web.BaseRequest], message: Any, payload: Any, protocol: Any, *rest: Any
) -> web.BaseRequest:
    """Make a request that can be routed, and answered in a supported version.

    `Expect` is answered when the body is read, while aiohttp would answer at once. An unreadable request
    gets method and path from `protocol.beginning`, so that its error is in its API's dialect.
    """
    state: dict[web.RequestKey[Any], Any] = {}
    if message is ERROR:
        method, path = first_line(protocol.beginning)
        url = URL.build(path=path, encoded=True)
        message = message._replace(method=method, path=path, url=url, version=HttpVersion11)
    if message.version[0] != 1:
        message = message._replace(version=HttpVersion11, should_close=True)
        state[REFUSED] = other_version()
    path = message.url.raw_path
    if "//" in path or (path.endswith("/") and path != "/"):
        message = _tidied(message, path)
    if "Expect" in message.headers:
        headers = CIMultiDict(message.headers)
        expected = map(str.lower, headers.popall("Expect"))
        message = message._replace(headers=CIMultiDictProxy(headers))
        state[CONTINUES] = message.version >= HttpVersion11 and "100-continue" in expected
    request = make(message, payload, protocol, *rest)
    for key, value in state.items():
        request[key] = value
    return request


def make_request_below(
    base: str, make: Callable[..., web.BaseRequest], message: Any, payload: Any, protocol: Any, *rest: Any
) -> web.BaseRequest:
    """Make a request of a gateway whose paths begin with `base`, which the request's path is without."""
    path = "" if message is ERROR else message.url.raw_path
    inner = below(base, path)
    if inner is not None:
        message = _with_path(message, path, inner)
    request = make_request(make, message, payload, protocol, *rest)
    if inner is None and path not in ("", "*", *PROBES):
        request[REFUSED] = ApiError(
            404, f"this gateway serves below {base} (server.base_path)", code="not_found"
        )
    return request


def below(base: str, path: str) -> str | None:
    """Return the rest of a path that begins with `base`; None if it does not."""
    if not path.startswith(base):
        return None
    rest = path[len(base) :]
    return rest or "/" if not rest or rest.startswith("/") else None


def _tidied(message: Any, path: str) -> Any:
    return _with_path(message, path, tidy_path(path))


def _with_path(message: Any, path: str, new: str) -> Any:
    """Replace the path of a request line, which may be a whole URL."""
    is_whole_url = not message.path.startswith(path)
    target = message.path if is_whole_url else new + message.path[len(path) :]
    return message._replace(path=target, url=message.url.with_path(new, encoded=True, keep_query=True))


def tidy_path(path: str) -> str:
    """Remove doubled slashes, and a slash at the end.

    Clients whose base URL ends with a slash send such paths. Paths below `/upstream/` are passed on to the
    model's own server unchanged.
    """
    if (upstream := _UPSTREAM.match(path)) is not None:
        return "/upstream/" + path[upstream.end() :]
    return _SLASHES.sub("/", path).rstrip("/") or "/"


def first_line(beginning: bytes) -> tuple[str, str]:
    """Return method and path of an unreadable request, as far as possible."""
    if (found := _FIRST_LINE.match(beginning)) is None:
        return "UNKNOWN", "/"
    return found[1].decode(), found[2].decode()


def other_version() -> ApiError:
    """Make the error for a request of another HTTP version."""
    return _bad_http(505, "this is HTTP/1.1; HTTP/2 needs a proxy in front")


def refusal(error: BaseException | None, message: str, beginning: bytes) -> ApiError:
    """Make the error for an unreadable request."""
    if beginning.startswith(b"PRI * HTTP/2"):
        return other_version()
    if isinstance(error, LineTooLong):
        target = beginning.split(maxsplit=2)[1:2]
        if target and len(target[0]) > LINE_LIMIT:
            return _bad_http(414, f"the path and the query are longer than {LINE_LIMIT} bytes")
        return _bad_http(431, f"a header is longer than {LINE_LIMIT} bytes")
    if "Too many headers" in message:
        return _bad_http(431, "the request has too many headers")
    text = next(iter(message.strip().splitlines()), "bad request")[:300].rstrip(":")
    return _bad_http(400, f"the request cannot be read: {text}")


def head_too_long(limit: int) -> ApiError:
    """Make the error for a head of more than `limit` bytes."""
    return _bad_http(431, f"the head of the request is longer than {limit} bytes")


def _bad_http(status: int, message: str) -> ApiError:
    return ApiError(status, message, code="bad_http")
