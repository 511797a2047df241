"""`/admin/plan`: explains where a model would go. Changes nothing."""

from typing import Any

import msgspec
from aiohttp import web

from actors.servers import StartError
from actors.supervisor import Supervisor
from proxy.admin.routes import Route
from proxy.errors import ApiError


class PlanQuery(msgspec.Struct):
    """The query of `/admin/plan`."""

    model: str


class PlanView:
    """Answers from the planner's state as of now."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    @property
    def routes(self) -> tuple[Route, ...]:
        """The routes."""
        return (
            Route(
                method="GET", path="/admin/plan", handler=self.plan, answer=dict[str, Any], query=PlanQuery
            ),
        )

    async def plan(self, request: web.Request) -> web.Response:
        """Explain where `?model=` would go, its memory, and which models would make room. Changes nothing."""
        asked = request.query.get("model")
        if not asked:
            raise ApiError(400, "name a model: /admin/plan?model=NAME", param="model")
        name = self._supervisor.resolve(asked)
        if name is None:
            raise ApiError(404, f"model {asked[:200]!r} not found", code="model_not_found", param="model")
        try:
            answer = await self._supervisor.plan(name)
        except StartError as error:
            raise ApiError(422, error.failure.message, code="model_unusable", param="model") from None
        if answer is None:
            message = f"model {name!r} is not downloaded yet, so that nothing is known of its memory"
            raise ApiError(409, message, code="model_not_downloaded", param="model")
        return web.json_response(answer)
