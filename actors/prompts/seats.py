"""Which slot a request gets where keys are kept apart, and whose prompt is in it. Pure.

A conversation goes where its prompt is. A new one takes an empty slot before it takes the place of another.
"""

from collections.abc import Iterable

from actors.prompts.chain import Chain

ALIKE = 0.9
"""The part of what is in a slot that a request must begin with to be taken for its continuation."""


class _Seat:
    __slots__ = ("chain", "client", "left_at", "taken")

    def __init__(self) -> None:
        self.client: str | None = None
        self.chain: Chain | None = None
        self.left_at = 0
        self.taken = False


class Seats:
    """The slots of one server, by their ids."""

    def __init__(self, slots: Iterable[int]) -> None:
        self._seats = {slot: _Seat() for slot in slots}
        self._clock = 0

    def take(self, client: str, chain: Chain | None) -> tuple[int, bool] | None:
        """Return a free slot for a request, and whether what is in it must not be used; None if none is free.

        `chain`: of the request, if it has one.
        """
        free = [(slot, seat) for slot, seat in self._seats.items() if not seat.taken]
        if not free:
            return None

        def likeness(seat: _Seat) -> float:
            if chain is None or seat.chain is None or seat.client != client:
                return 0.0
            shared = chain.shared(seat.chain)
            return shared if shared >= ALIKE else 0.0

        slot, seat = max(free, key=lambda one: (likeness(one[1]), one[1].client is None, -one[1].left_at))
        strange = seat.client != client
        seat.client, seat.chain, seat.taken = client, chain, True
        return slot, strange

    def leave(self, slot: int) -> None:
        """Note that a request is over."""
        self._clock += 1
        self._seats[slot].taken, self._seats[slot].left_at = False, self._clock
