"""`/admin/plan`: explains where a model would go. Changes nothing."""

from typing import Annotated, Any

import msgspec
from aiohttp import web

from actors.servers import StartError, Trial
from actors.supervisor import Supervisor
from proxy.admin.routes import Route, read_query
from proxy.errors import ApiError

Tokens = Annotated[int, msgspec.Meta(ge=1, lt=2**31)]


class PlanQuery(msgspec.Struct):
    """The query of `/admin/plan`. The others are tried instead of the model's own settings: tokens of context
    over all slots, slots, and the type of the cache (`f16`, `q8_0`, ...).
    """

    model: str = ""
    ctx: Tokens | None = None
    parallel: Annotated[int, msgspec.Meta(ge=1, le=4096)] | None = None
    kv: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_]{1,20}$")] | None = None

    @property
    def trial(self) -> Trial | None:
        """The settings to try; None if there are none."""
        found = Trial(ctx=self.ctx, parallel=self.parallel, kv=self.kv)
        return None if found == Trial() else found


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
        query = read_query(request, PlanQuery)
        if not query.model:
            raise ApiError(400, "name a model: /admin/plan?model=NAME", param="model")
        name = self._supervisor.resolve(query.model)
        if name is None:
            raise ApiError(
                404, f"model {query.model[:200]!r} not found", code="model_not_found", param="model"
            )
        try:
            answer = await self._supervisor.plan(name, query.trial)
        except StartError as error:
            raise ApiError(422, error.failure.message, code="model_unusable", param="model") from None
        if answer is None:
            message = f"model {name!r} is not downloaded yet, so that nothing is known of its memory"
            raise ApiError(409, message, code="model_not_downloaded", param="model")
        return web.json_response(answer)
