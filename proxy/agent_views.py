"""`/v1/agents`: which agents there are, and what they offer beside requests."""

from aiohttp import web

from agents.api import Call
from agents.errors import AgentError
from agents.host import AgentHost
from proxy.errors import ApiError
from proxy.requests import too_large
from proxy.with_agents import of_agent


class AgentViews:
    """The handlers. `body_limit` is in bytes."""

    def __init__(self, host: AgentHost, *, body_limit: int) -> None:
        self._host = host
        self._body_limit = body_limit

    async def listed(self, _request: web.Request) -> web.Response:
        """All that are enabled, with their descriptions, options, counters and operations."""
        return web.json_response({"object": "list", "data": self._host.describe()})

    async def described(self, request: web.Request) -> web.Response:
        """One of them."""
        wanted = request.match_info["agent"]
        for described in self._host.describe():
            if described["name"] == wanted:
                return web.json_response(described)
        raise ApiError(404, f"there is no agent {wanted[:200]!r}", code="agent_not_found")

    async def operate(self, request: web.Request) -> web.Response:
        """What an agent offers: the verb and the rest of the path say what."""
        if (request.content_length or 0) > self._body_limit:
            raise too_large(self._body_limit)
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
