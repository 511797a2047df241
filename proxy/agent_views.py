"""`/v1/agents`: which agents there are, and what they offer beside requests."""

import asyncio

from aiohttp import web

from agents.api import Call
from agents.errors import AgentError
from agents.host import AgentHost
from agents.settings import OLDER_NAMES
from proxy.errors import ApiError
from proxy.requests import too_large
from proxy.with_agents import of_agent

SMALL = 1024 * 1024
"""Bytes of a body of which any number may be held at a time."""
UPLOADS = 4
"""Larger ones at a time."""


class AgentViews:
    """The handlers. `body_limit` is in bytes."""

    def __init__(self, host: AgentHost, *, body_limit: int) -> None:
        self._host = host
        self._body_limit = body_limit
        self._uploads = asyncio.Semaphore(UPLOADS)

    async def listed(self, _request: web.Request) -> web.Response:
        """All that are enabled, with their descriptions, options, counters and operations."""
        return web.json_response({"object": "list", "data": self._host.describe()})

    async def described(self, request: web.Request) -> web.Response:
        """One of them."""
        wanted = OLDER_NAMES.get(request.match_info["agent"], request.match_info["agent"])
        for described in self._host.describe():
            if described["name"] == wanted:
                return web.json_response(described)
        raise ApiError(404, f"there is no agent {wanted[:200]!r}", code="agent_not_found")

    async def operate(self, request: web.Request) -> web.Response:
        """What an agent offers: the verb and the rest of the path say what."""
        length = request.content_length
        if (length or 0) > self._body_limit:
            raise too_large(self._body_limit)
        if length is not None and length <= SMALL:
            return await self._operate(request)
        if self._uploads.locked():
            message = f"{UPLOADS} large uploads are under way already, and all are held in memory"
            raise ApiError(503, message, code="uploads_busy", retry_after=2)
        async with self._uploads:
            return await self._operate(request)

    async def _operate(self, request: web.Request) -> web.Response:
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            raise too_large(self._body_limit) from None
        call = Call(parameters=dict(request.query), body=body, media_type=request.content_type)
        agent, path = request.match_info["agent"], request.match_info["path"]
        try:
            return web.json_response(await self._host.operate(agent, request.method, path, call))
        except AgentError as error:
            raise of_agent(error) from None
