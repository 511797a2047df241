"""`/v1/agents`: the enabled agents and their operations."""

import msgspec
from aiohttp import web

from agents.api import Call
from agents.errors import AgentError
from agents.host.host import AgentHost
from agents.host.settings import OLDER_NAMES
from proxy.answers.agent_guards import of_agent
from proxy.door.bodies import BODIES, check_json
from proxy.errors import ApiError, not_allowed
from proxy.exchange import EXCHANGE


class AgentViews:
    """The handlers."""

    def __init__(self, agents: AgentHost) -> None:
        self._agents = agents

    async def listed(self, request: web.Request) -> web.Response:
        """List the agents that the key may use, with descriptions, options, counters and operations."""
        may_use = request[EXCHANGE].may_use_agent
        agents = [described for described in self._agents.describe() if may_use(described["name"])]
        return web.json_response({"object": "list", "data": agents})

    async def described(self, request: web.Request) -> web.Response:
        """Describe one agent."""
        wanted = OLDER_NAMES.get(request.match_info["agent"], request.match_info["agent"])
        for described in self._agents.describe():
            if described["name"] == wanted and request[EXCHANGE].may_use_agent(wanted):
                return web.json_response(described)
        raise ApiError(404, f"there is no agent {wanted[:200]!r}", code="agent_not_found")

    async def operate(self, request: web.Request) -> web.Response:
        """Run an agent's operation, named by the HTTP verb and the rest of the path."""
        agent, path = request.match_info["agent"], request.match_info["path"]
        if not request[EXCHANGE].may_use_agent(OLDER_NAMES.get(agent, agent)):
            message = f"the API key may not use agent {agent[:200]!r}"
            raise ApiError(403, message, code="agent_not_allowed")
        method = "GET" if request.method == "HEAD" else request.method
        methods = self._agents.methods_of(agent, path)
        if methods and method not in methods:
            allowed = methods | {"HEAD"} if "GET" in methods else methods
            raise not_allowed(request.method, request.path, allowed)
        body = await request.app[BODIES].read(request)
        if request.content_type == "application/json":
            await check_json(body)
        call = Call(parameters=dict(request.query), body=body, media_type=request.content_type)
        try:
            answer = await self._agents.operate(agent, method, path, call, key=request[EXCHANGE].client)
        except AgentError as error:
            raise of_agent(error) from None
        try:
            return web.Response(body=msgspec.json.encode(answer), content_type="application/json")
        except (TypeError, ValueError, RecursionError) as error:  # of somebody else's code
            message = f"agent {agent!r} failed: its answer to {path!r} is no JSON ({error})"
            raise ApiError(500, message, code="agent_failed") from error
