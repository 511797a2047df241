"""The gateway of this configuration, which may be running on this machine: its address, and requests to it.

`run.py` speaks to it by the routes of `/admin`, with an admin key of the environment or the configuration.
"""

import http.client
import json
import os
import urllib.error
import urllib.request
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import wraps
from typing import Any

from actors.config.certificate import client_context
from actors.config.key_secrets import read_secret
from actors.config.schema import Config, authority
from actors.terminal import complain, program

TIMEOUT = 5.0
"""Seconds within which a running gateway must answer."""

ANSWER_LIMIT = 8 << 20
"""Most bytes of the gateway's answer."""

SILENCE = 30.0
"""Seconds within which a running gateway sends something in a stream of lines, be it an empty one."""

KEY_VARIABLE = "LLAMA_SMART_PROXY_KEY"
"""The environment variable with an admin key for a running gateway."""

_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1", "*": "localhost"}  # noqa: S104


class GatewayAwayError(Exception):
    """No gateway answers at the address of the configuration."""


class GatewayRefusalError(Exception):
    """The gateway answers with an error. The message is the gateway's, or names the admin key to set."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def reporting(run: Callable[[Namespace], int]) -> Callable[[Namespace], int]:
    """Let a command print why the gateway cannot do what it asks for, and fail."""

    @wraps(run)
    def wrapped(options: Namespace) -> int:
        try:
            return run(options)
        except GatewayAwayError as error:
            complain(f"{error}; is it running? `{program()} serve` starts it, and --port names another port")
        except GatewayRefusalError as error:
            complain(str(error))
        return 1

    return wrapped


def url_of(config: Config) -> str:
    """Return the base URL at which this machine reaches the gateway."""
    server = config.server
    host = _ANY_ADDRESS.get(server.host, server.host)
    return f"{server.scheme}://{authority(host, server.port)}{server.base_path}"


def send(
    config: Config, method: str, path: str, body: object = None, *, timeout: float = TIMEOUT
) -> http.client.HTTPResponse:
    """Send a request, with an admin key if there is one; return the answer, to be read and closed. Blocking.

    Raises `GatewayAwayError`, `GatewayRefusalError`.
    """
    data = None if body is None else json.dumps(body).encode()
    headers = _admin_key(config) | ({"Content-Type": "application/json"} if data else {})
    request = urllib.request.Request(url_of(config) + path, data, headers, method=method)  # noqa: S310 (it is http)
    try:
        # Without the environment's proxy: the gateway is on this machine.
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
        if config.server.tls.enabled:
            handlers.append(urllib.request.HTTPSHandler(context=client_context(config.server.tls)))
        answer: http.client.HTTPResponse = urllib.request.build_opener(*handlers).open(
            request, timeout=timeout
        )
        return answer
    except urllib.error.HTTPError as error:
        with error:
            raise GatewayRefusalError(_message(config, error), error.code) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise GatewayAwayError(f"no gateway answers at {url_of(config)}: {reason}") from error


def ask(config: Config, method: str, path: str, body: object = None, *, timeout: float = TIMEOUT) -> Any:
    """Send a request and return the JSON of the answer; None if it has none. Blocking.

    Raises `GatewayAwayError`, `GatewayRefusalError`.
    """
    try:
        with send(config, method, path, body, timeout=timeout) as answer:
            data = answer.read(ANSWER_LIMIT)
            return None if answer.status == 204 else json.loads(data)
    except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
        raise GatewayAwayError(f"no gateway answers at {url_of(config)}: {error}") from error


def lines_of(config: Config, path: str) -> Iterator[str]:
    """Yield the lines of a stream as they come, without empty ones. Blocking.

    Raises `GatewayAwayError`, `GatewayRefusalError`.
    """
    try:
        with send(config, "GET", path, timeout=SILENCE) as answer:
            for line in answer:
                if text := line.decode(errors="replace").strip():
                    yield text
    except (OSError, http.client.HTTPException) as error:
        raise GatewayAwayError(f"the gateway at {url_of(config)} is gone: {error}") from error


def _message(config: Config, error: urllib.error.HTTPError) -> str:
    if error.code in (401, 403):
        return f"the gateway on port {config.server.port} wants an admin key ({KEY_VARIABLE})"
    with suppress(OSError, http.client.HTTPException, ValueError, LookupError, TypeError, RecursionError):
        return str(json.loads(error.read(ANSWER_LIMIT))["error"]["message"])
    return f"the gateway on port {config.server.port} answers with status {error.code}"


def _admin_key(config: Config) -> dict[str, str]:
    """Return the header with an admin key: of the environment, or else of the configuration."""
    secret = os.environ.get(KEY_VARIABLE, "")
    for key in config.keys.values():
        if key.admin and not secret:
            with suppress(ValueError):
                secret = read_secret(key)
    return {"Authorization": f"Bearer {secret}"} if secret else {}
