"""Everybody who waits for a lease, by number and by deadline. Pure."""

import heapq
import math
from collections.abc import Iterator

from actors.scheduler.models import Ticket


class Waiting:
    """The waiting tickets. Those of one model, in the order of their turns, are in its `queue`."""

    def __init__(self) -> None:
        self._tickets: dict[int, Ticket] = {}
        self._deadlines: list[tuple[float, int]] = []

    def __len__(self) -> int:
        return len(self._tickets)

    def __iter__(self) -> Iterator[Ticket]:
        return iter(list(self._tickets.values()))

    def get(self, number: int) -> Ticket | None:
        """The ticket of this number, if it waits."""
        return self._tickets.get(number)

    def add(self, ticket: Ticket) -> None:
        """It begins to wait."""
        self._tickets[ticket.id] = ticket
        heapq.heappush(self._deadlines, (ticket.deadline, ticket.id))

    def remove(self, ticket: Ticket) -> None:
        """It waits no more."""
        del self._tickets[ticket.id]

    def delay(self, ticket: Ticket, seconds: float) -> None:
        """So much of the time was not a wait for its turn."""
        ticket.since += seconds
        ticket.deadline += seconds
        heapq.heappush(self._deadlines, (ticket.deadline, ticket.id))

    def next_deadline(self) -> float:
        """The first of them. Entries of the heap that are no longer true are dropped."""
        while self._deadlines:
            deadline, number = self._deadlines[0]
            ticket = self._tickets.get(number)
            if ticket is not None and ticket.deadline == deadline:
                return deadline
            heapq.heappop(self._deadlines)
        return math.inf

    def overdue(self, now: float) -> Iterator[Ticket]:
        """Each ticket whose deadline has passed, once."""
        while self.next_deadline() <= now:
            _, number = heapq.heappop(self._deadlines)
            yield self._tickets[number]
