"""When waiting requests will have their turn, from measured times. Pure."""

import math

from actors.scheduler.allocator import Decision, MakeRoom, Refuse, Seat, Wait
from actors.scheduler.lifecycle import State
from actors.scheduler.model_states import ModelState, Outlook, Ticket

LONGEST = 120
"""Most seconds after which a rejected client is told to try again."""


def retry_after(model: ModelState) -> int:
    """Return the seconds until a new request to this model would have its turn, at most `LONGEST`."""
    return max(1, min(LONGEST, math.ceil(_seconds(model, len(model.queue)))))


def outlook(ticket: Ticket, ahead: int, now: float) -> Outlook:
    """Return the place and time of a ticket that waits behind `ahead` others of its model."""
    model = ticket.model
    undecided = model.life.state is not State.FETCHED
    return Outlook(
        model=model.spec.name,
        state=model.life.state,
        position=ahead + 1,
        seconds=_seconds(model, ahead),
        why=None if undecided else model.outlook,
        others=() if undecided else model.in_the_way,
        ticket=ticket.id,
        client=ticket.client,
        waited=now - ticket.asked_at,
        loading=now - model.started_at if model.life.state is State.STARTING else None,
        load_seconds=model.mean_load,
    )


def in_words(decision: Decision) -> str:
    """Say what a model that wants a place waits for."""
    match decision:
        case Seat():
            return "it starts"
        case MakeRoom(why=why) | Wait(why=why):
            return why
        case Refuse(reason=reason):
            return reason.message


def _seconds(model: ModelState, ahead: int) -> float:
    seconds = model.mean_hold * (ahead + 1) / model.spec.slots
    if model.life.state is not State.READY:
        seconds += model.mean_load
    return seconds
