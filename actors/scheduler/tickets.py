"""The queue of all requests that wait for a lease, by number and by deadline. Pure."""

import heapq
import math
from collections.abc import Iterator

from actors.scheduler.model_states import Ticket


class TicketQueue:
    """The waiting tickets of all models. Their order within one model is `ModelState.queue`."""

    def __init__(self) -> None:
        self._tickets: dict[int, Ticket] = {}
        self._deadlines: list[tuple[float, int]] = []

    def __len__(self) -> int:
        return len(self._tickets)

    def __iter__(self) -> Iterator[Ticket]:
        return iter(list(self._tickets.values()))

    def get(self, number: int) -> Ticket | None:
        """Return the ticket with this number, if it waits."""
        return self._tickets.get(number)

    def add(self, ticket: Ticket) -> None:
        """Add a ticket."""
        self._tickets[ticket.id] = ticket
        heapq.heappush(self._deadlines, (ticket.deadline, ticket.id))

    def remove(self, ticket: Ticket) -> None:
        """Remove a ticket."""
        del self._tickets[ticket.id]

    def delay(self, ticket: Ticket, seconds: float) -> None:
        """Move a ticket's deadline by the seconds that do not count as waiting."""
        ticket.since += seconds
        ticket.deadline += seconds
        heapq.heappush(self._deadlines, (ticket.deadline, ticket.id))

    def next_deadline(self) -> float:
        """Return the earliest deadline, or infinity. Drops outdated entries of the heap."""
        while self._deadlines:
            deadline, number = self._deadlines[0]
            ticket = self._tickets.get(number)
            if ticket is not None and ticket.deadline == deadline:
                return deadline
            heapq.heappop(self._deadlines)
        return math.inf

    def overdue(self, now: float) -> Iterator[Ticket]:
        """Yield each ticket whose deadline has passed, once."""
        while self.next_deadline() <= now:
            _, number = heapq.heappop(self._deadlines)
            yield self._tickets[number]
