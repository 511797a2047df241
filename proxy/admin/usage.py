"""`/admin/usage`, `/admin/activity` and `/v1/usage`: what requests took, from the ledger."""

import asyncio
import time
from collections.abc import Callable
from typing import Annotated, TypeVar

import msgspec
from aiohttp import web

from proxy.access.gate import GATE
from proxy.admin.routes import Route, json_answer, read_query
from proxy.errors import ApiError
from proxy.exchange import EXCHANGE, Outcome
from proxy.usage.capture import Captured
from proxy.usage.records import UsageRecords
from proxy.usage.reports import (
    DEFAULT_GROUPS,
    MOST_ROWS,
    Activity,
    Filter,
    Group,
    Kind,
    ReportError,
    Sums,
    activity,
    parse_groups,
    sums,
)
from proxy.usage.times import parse_time

T = TypeVar("T")


class UsageQuery(msgspec.Struct, kw_only=True):
    """`by`: facts of requests, with commas. `since` and `until`: a time, such as 2027-01-31 or 7d (ago)."""

    by: str = ",".join(DEFAULT_GROUPS)
    since: str | None = None
    until: str | None = None


class OwnUsageQuery(UsageQuery, kw_only=True):
    """The same, by other facts if it does not say which."""

    by: str = "model,day"


class Usage(msgspec.Struct, frozen=True):
    """What requests took."""

    rows: list[Sums]


class ActivityQuery(msgspec.Struct, kw_only=True):
    """`before`: the `next` of the previous page. `key` and `model`: empty for requests without one.

    `kind`: requests of clients, agents' calls of models, or actions of operators.
    """

    limit: Annotated[int, msgspec.Meta(ge=1, le=MOST_ROWS)] = 50
    before: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None = None
    kind: Kind = "request"
    model: str | None = None
    key: str | None = None
    outcome: Outcome | None = None
    since: str | None = None
    until: str | None = None


class ActivityPage(msgspec.Struct, frozen=True):
    """Finished requests, the newest first. `next`: `before` for the next page; null: there are no more."""

    requests: list[Activity]
    next: str | None


class UsageViews:
    """Answers from the files of the ledger and of captures, after what waits in memory has been written."""

    def __init__(self, records: UsageRecords, clock: Callable[[], float] = time.time) -> None:
        self._records = records
        self._clock = clock

    @property
    def routes(self) -> tuple[Route, ...]:
        """The routes."""
        return (
            Route(method="GET", path="/admin/usage", handler=self.usage, answer=Usage, query=UsageQuery),
            Route(
                method="GET",
                path="/admin/activity",
                handler=self.activity,
                answer=ActivityPage,
                query=ActivityQuery,
            ),
            Route(
                method="GET",
                path="/admin/activity/{id:.+}/capture",
                handler=self.capture,
                answer=Captured,
            ),
            Route(method="GET", path="/v1/usage", handler=self.own, answer=Usage, query=OwnUsageQuery),
        )

    async def usage(self, request: web.Request) -> web.Response:
        """Sum up what requests took: `?by=key,model,day,endpoint,outcome,agent&since=&until=`."""
        return await self._sums(read_query(request, UsageQuery), Filter())

    async def own(self, request: web.Request) -> web.Response:
        """Sum up what the requests of this API key took; if there are no keys, what all took."""
        name = request[EXCHANGE].client
        everything = not name and not request.app[GATE].has_keys
        return await self._sums(read_query(request, OwnUsageQuery), Filter(key=None if everything else name))

    async def activity(self, request: web.Request) -> web.Response:
        """List finished requests, the newest first, with filters."""
        query = read_query(request, ActivityQuery)
        which = Filter(
            kind=query.kind,
            key=query.key,
            model=query.model,
            outcome=query.outcome,
            since=self._time("since", query.since),
            until=self._time("until", query.until),
        )
        rows = await self._read(lambda: self._rows(query, which))
        is_more = len(rows) == query.limit
        return json_answer(ActivityPage(rows, str(rows[-1].number) if is_more else None))

    async def capture(self, request: web.Request) -> web.Response:
        """Show a captured request and its answer, as the client got it, without secrets."""
        request_id = request.match_info["id"]
        try:
            found = await asyncio.to_thread(self._records.folder.newest, request_id)
        except OSError as error:
            raise ApiError(503, f"the capture cannot be read: {error}", code="usage_unavailable") from None
        if found is None:
            message = (
                f"there is no capture of a request {request_id[:200]!r}; usage.captures says what is captured"
            )
            raise ApiError(404, message, code="not_found")
        return web.Response(body=found, content_type="application/json")

    def _rows(self, query: ActivityQuery, which: Filter) -> list[Activity]:
        rows = activity(self._records.file, which, limit=query.limit, before=query.before)
        has = self._records.folder.has
        return [msgspec.structs.replace(row, capture=has(row.id, row.at)) for row in rows]

    async def _sums(self, query: UsageQuery, which: Filter) -> web.Response:
        which = msgspec.structs.replace(
            which, since=self._time("since", query.since), until=self._time("until", query.until)
        )
        by = _groups(query.by)
        return json_answer(Usage(await self._read(lambda: sums(self._records.file, by, which))))

    async def _read(self, work: Callable[[], T]) -> T:
        await self._records.ledger.save()
        try:
            return await asyncio.to_thread(work)
        except ReportError as error:
            raise ApiError(503, str(error), code="usage_unavailable") from None

    def _time(self, param: str, text: str | None) -> float | None:
        try:
            return None if not text else parse_time(text, self._clock())
        except ValueError as error:
            raise ApiError(400, f"{param}: {error}", param=param) from None


def _groups(text: str) -> tuple[Group, ...]:
    try:
        return parse_groups(text)
    except ValueError as error:
        raise ApiError(400, f"by: {error}", param="by") from None
