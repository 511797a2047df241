"""Decides which web pages may use the gateway, and under which host names.

A browser sends any page's requests to any address, including this machine and its network, and a page can
let its own name resolve to such an address (DNS rebinding). So requests of foreign pages are refused, by
`Origin` and `Sec-Fetch-Site`, and so are requests for a foreign host name. Programs send neither header.
"""

import ipaddress
import re
import socket
import time
from collections.abc import Sequence

import psutil
from aiohttp import HttpVersion11, web

from proxy.errors import ApiError

OPEN_TO_LINKS = ("/", "/ui", "/health", "/health/live", "/health/ready")
"""Paths that other pages may link to: they change nothing, and the other page cannot read them."""

CONTAINER_HOSTS = ("host.docker.internal", "host.containers.internal")
"""Host names that containers use for their machine. Nobody can register them."""

EXPOSED = "X-Request-Id, Request-Id, X-Agents, X-Model-Place, X-Gateway-Ignored, Retry-After, Allow"
METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
PREFLIGHT_SECONDS = 7200
"""Seconds for which browsers may cache a preflight's answer; Chromium's maximum."""

ADDRESSES_STAY = 5.0
"""Seconds for which this machine's addresses are cached."""
MOST_KNOWN = 256
"""Most Host headers that are remembered as allowed."""

_AUTHORITY = re.compile(r"(\[[0-9a-fA-F:.]+(?:%[0-9a-zA-Z._-]+)?\]|[0-9A-Za-z._-]+)(?::[0-9]{0,5})?")
_HEADER_NAMES = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z, \t-]{1,4000}")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


class Origins:
    """Checks each request. `origins` and `hosts` are allowed in addition to the gateway's own.

    Hosts are only checked if `hosts` is not empty or `checks_hosts` is set.
    """

    def __init__(
        self, origins: Sequence[str] = (), hosts: Sequence[str] = (), *, checks_hosts: bool = False
    ) -> None:
        self._on_loopback = checks_hosts
        own = socket.gethostname().lower()
        self._own_names = {"localhost", own, (short := own.partition(".")[0]), f"{short}.local"}
        self._addresses: set[str] = set()
        self._addresses_at = float("-inf")
        self.reconfigure(origins, hosts)

    def reconfigure(self, origins: Sequence[str], hosts: Sequence[str]) -> None:
        """Allow these from now on."""
        self._allows_some = bool(origins)
        self._any_origin = "*" in origins
        self._allowed = re.compile("|".join(map(_origin_pattern, origins)) or "(?!)")
        self._checks_hosts = (self._on_loopback or bool(hosts)) and "*" not in hosts
        allowed = [_plain(host) for host in hosts]
        self._names = {*self._own_names, *CONTAINER_HOSTS, *allowed}
        self._suffixes = (".localhost", *(host[1:] for host in allowed if host.startswith("*.")))
        self._known: set[str] = set()

    def admit(self, request: web.Request) -> None:
        """Check whether the request may be served. Raises `ApiError` if not."""
        headers = request.headers
        hosts = headers.getall("Host", ())
        if len(hosts) != 1 or hosts[0] not in self._known or request.raw_path[0] != "/":
            self._check_hosts(request, hosts)
        if "Origin" in headers or "Sec-Fetch-Site" in headers:
            self._check_page(request)

    # Hosts

    def _check_hosts(self, request: web.Request, hosts: Sequence[str]) -> None:
        if len(hosts) != 1 and (hosts or request.version >= HttpVersion11):
            raise ApiError(400, "a request has one Host header", code="bad_http")
        named = list(hosts)
        if (target := request.raw_path).startswith(("http://", "https://")):
            named.append(target.partition("://")[2].partition("/")[0])
        for authority in named:
            if (found := _AUTHORITY.fullmatch(authority)) is None:
                raise ApiError(400, f"{authority[:200]!r} is no host with or without a port", code="bad_http")
            if self._checks_hosts and not self._is_ours(_plain(found[1]), request):
                message = (
                    f"this gateway is not called {found[1][:200]!r}; "
                    "if it is, add the name to server.allowed_hosts"
                )
                raise ApiError(403, message, code="host_not_allowed")
            if len(self._known) < MOST_KNOWN:
                self._known.add(authority)

    def _is_ours(self, host: str, request: web.Request) -> bool:
        if host in self._names or host.endswith(self._suffixes):
            return True
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return False
        if address.is_loopback or address.is_unspecified:
            return True
        here = request.get_extra_info("sockname")
        return (bool(here) and _plain(here[0]) == host) or str(address) in self._own_addresses()

    def _own_addresses(self) -> set[str]:
        if time.monotonic() - self._addresses_at > ADDRESSES_STAY:
            found = (one.address for each in psutil.net_if_addrs().values() for one in each)
            self._addresses = {_plain(address).partition("%")[0] for address in found}
            self._addresses_at = time.monotonic()
        return self._addresses

    # Pages

    def _check_page(self, request: web.Request) -> None:
        headers = request.headers
        sites = headers.getall("Sec-Fetch-Site", ())
        near = all(site in ("same-origin", "none") for site in sites)
        origin = ", ".join(headers.getall("Origin", ()))
        if self.allows(request):
            return
        if not origin:
            if near or _is_link(request):
                return
            raise ApiError(403, "another page may not use this gateway (server.allowed_origins)", code=_CODE)
        if not (near and _is_same(origin, request, said_so="same-origin" in sites)):
            message = f"a page of {origin[:200]!r} may not use this gateway (server.allowed_origins)"
            raise ApiError(403, message, code=_CODE)

    def allows(self, request: web.Request) -> bool:
        """Whether the request comes from an allowed foreign page."""
        if self._any_origin:
            return True
        origins = request.headers.getall("Origin", ())
        return len(origins) == 1 and self._allowed.fullmatch(origins[0].lower()) is not None

    # CORS headers

    def preflight(self, request: web.Request) -> web.Response | None:
        """Answer a CORS preflight of an allowed page; None for any other request."""
        headers = request.headers
        if request.method != "OPTIONS" or "Access-Control-Request-Method" not in headers:
            return None
        if "Origin" not in headers or not self.allows(request):
            return None
        answer = {
            "Access-Control-Allow-Methods": METHODS,
            "Access-Control-Max-Age": str(PREFLIGHT_SECONDS),
        }
        wanted = headers.get("Access-Control-Request-Headers", "")
        if _HEADER_NAMES.fullmatch(wanted):
            answer["Access-Control-Allow-Headers"] = wanted
        if headers.get("Access-Control-Request-Private-Network") == "true":
            answer["Access-Control-Allow-Private-Network"] = "true"
        return web.Response(status=204, headers=answer)

    async def tell(self, request: web.Request, response: web.StreamResponse) -> None:
        """Add the CORS headers that let an allowed page read the answer. Handler of an aiohttp signal."""
        if not self._allows_some:
            return
        response.headers.add("Vary", "Origin")
        if "Origin" in request.headers and self.allows(request):
            response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
            response.headers["Access-Control-Expose-Headers"] = EXPOSED


_CODE = "origin_not_allowed"


def _plain(host: str) -> str:
    return host.lower().strip("[]").rstrip(".")


def _origin_pattern(origin: str) -> str:
    """Compile an origin of `server.allowed_origins`: `:*` is any port, `*` any part of a host."""
    scheme, _, authority = origin.lower().partition("://")
    any_port = authority.endswith(":*")
    host = authority.removesuffix(":*").removesuffix(_DEFAULT_PORTS.get(scheme, ""))
    pattern = re.escape(f"{scheme}://{host}" if "://" in origin else origin.lower())
    return pattern.replace(r"\*", "[^/:@?#]+") + ("(?::[0-9]+)?" if any_port else "")


def _is_same(origin: str, request: web.Request, *, said_so: bool) -> bool:
    """Whether a page's origin is the gateway itself, as the browser sees it.

    Behind a proxy that terminates TLS the scheme differs, and the host may only be in `X-Forwarded-Host`,
    which a page cannot send to another origin without a preflight. `said_so`: the browser reports the same
    origin, and the proxy may have dropped the port.
    """
    scheme, _, authority = origin.lower().partition("://")
    default = _DEFAULT_PORTS.get(scheme)
    if default is None:
        return False
    for name in ("Host", "X-Forwarded-Host"):
        own = request.headers.get(name, "").lower()
        ours, theirs = _AUTHORITY.fullmatch(own), _AUTHORITY.fullmatch(authority)
        if ours is None or theirs is None:
            continue
        if own.removesuffix(default) == authority.removesuffix(default) or (said_so and ours[1] == theirs[1]):
            return True
    return False


def _is_link(request: web.Request) -> bool:
    """Whether a person follows a link to one of the pages that other pages may link to."""
    headers = request.headers
    return (
        request.method in ("GET", "HEAD")
        and request.path in OPEN_TO_LINKS
        and headers.get("Sec-Fetch-Mode") == "navigate"
        and headers.get("Sec-Fetch-Dest") == "document"
    )
