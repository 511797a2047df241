"""The requests that are running or waiting, by id: to be shown, and to be cancelled."""

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from proxy.exchange import Exchange


class RunningRequests:
    """All requests from their head to their end. The id is the request's own.

    If a client sends an id that another running request has, a number is added to it.
    """

    def __init__(self) -> None:
        self._by_id: dict[str, Exchange] = {}
        self._numbers = itertools.count(2)

    def __iter__(self) -> Iterator[Exchange]:
        return iter(self._by_id.values())

    def get(self, listed_as: str) -> Exchange | None:
        """Return the running request with this id."""
        return self._by_id.get(listed_as)

    def add(self, exchange: Exchange) -> None:
        """Add a request, which the current task answers."""
        listed_as = exchange.request_id
        if listed_as in self._by_id:
            listed_as = f"{listed_as}~{next(self._numbers)}"
        exchange.listed_as = listed_as
        exchange.task = asyncio.current_task()
        self._by_id[listed_as] = exchange

    def remove(self, exchange: Exchange) -> None:
        """Remove a request that has ended."""
        exchange.task = None
        del self._by_id[exchange.listed_as]

    @contextmanager
    def holding(self, exchange: Exchange) -> Iterator[None]:
        """Have a request in the list for the time of a block."""
        self.add(exchange)
        try:
            yield
        finally:
            self.remove(exchange)


REQUESTS = web.AppKey("running", RunningRequests)
"""The application's running requests."""
