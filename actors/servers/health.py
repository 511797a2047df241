"""The gateway's own requests to a model server: whether it is healthy, and whether it has our key."""

from typing import Literal

import aiohttp

from actors.config.schema import authority
from actors.messages import ServerAddress

_DENIED = (401, 403)


async def answers(session: aiohttp.ClientSession, host: str, port: int) -> bool:
    """Whether GET /health answers 200 at this address."""
    return await health(session, host, port) == 200


async def health(session: aiohttp.ClientSession, host: str, port: int) -> int | None:
    """Return the status of GET /health at this address; None without an answer."""
    return await _status(session, host, port, "/health", {})


async def ask_for_key(
    session: aiohttp.ClientSession, endpoint: ServerAddress
) -> Literal["needed", "ignored", "refused"]:
    """Check whether the server knows the endpoint's key, with a path that needs a key, unlike /health."""
    if endpoint.key is None:
        return "ignored"
    host, port = endpoint.host, endpoint.port
    if await _status(session, host, port, "/props", {}) not in _DENIED:
        return "ignored"
    headers = {"Authorization": f"Bearer {endpoint.key.secret}"}
    return "refused" if await _status(session, host, port, "/props", headers) in _DENIED else "needed"


async def _status(
    session: aiohttp.ClientSession, host: str, port: int, path: str, headers: dict[str, str]
) -> int | None:
    try:
        async with session.get(f"http://{authority(host, port)}{path}", headers=headers) as response:
            return response.status
    except (aiohttp.ClientError, TimeoutError):
        return None
