"""The parts of this room, built together."""

from aiohttp import web

from actors.supervisor import Supervisor
from proxy.admin.live.events import Events
from proxy.admin.live.feed import Feed
from proxy.admin.live.models import Models
from proxy.admin.live.requests import Requests
from proxy.admin.routes import Route
from proxy.catalog import Catalog
from proxy.handlers.health import Views
from proxy.running import RunningRequests


class LiveState:
    """The present state, and its changes."""

    def __init__(self, supervisor: Supervisor, catalog: Catalog, views: Views) -> None:
        self.running = RunningRequests()
        self.models = Models(supervisor, catalog)
        self.requests = Requests(supervisor, self.running)
        self.feed = Feed(supervisor, self.models, self.requests, views)

    async def close(self, _app: web.Application) -> None:
        """End the streams of changes. Handler of an aiohttp signal."""
        self.feed.close()

    @property
    def routes(self) -> tuple[Route, ...]:
        """The routes."""
        return (*self.models.routes, *self.requests.routes, *Events(self.feed).routes)
