"""When a model that runs worse than it could, for want of room, is moved to a better place. Pure.

A part of it may be on the host, or its context be smaller than its own, because others had the memory when it
was loaded. To move it means to load it again, so:

* it is moved while it is idle, and nobody waits for any model;
* either it has worked in the worse place for as long as a reload takes: then as much may have been lost as
  the reload costs, and it may go on being lost; or it has been idle for much longer than a reload takes, so
  that the next request will hardly come in the middle of it;
* the room must have been there for a while, and the gain be more than a few layers;
* it is not moved again soon, however the memory comes and goes.
"""

import math

from actors.placement.fit import Placement
from actors.placement.ledger import Holding
from actors.placement.options import Demand, Option
from actors.scheduler.lifecycle import State
from actors.scheduler.model_states import ModelState

BREATH = 0.5
"""Seconds without a request, at least, after which a model that works a lot counts as idle."""

QUIET = 3.0
"""Seconds without a request, at least, after which one that has hardly worked may be moved."""

SETTLED = 2.0
"""Seconds for which the room must have been there."""

PAUSE = 60.0
"""Seconds between two moves of a model, at least."""

SELDOM = 10.0
"""... and so many times what a move takes."""

PART = 8
"""One in so many of its layers is the least that more layers on GPUs are worth."""


def is_stuck(model: ModelState, holding: Holding) -> bool:
    """Whether it is idle, and runs in a worse way than its best."""
    placement = holding.placement
    return (
        model.life.state is State.READY
        and not model.holders
        and model.used
        and model.demand is not None
        and placement.managed
        and not model.figures.on_host  # there it stays, whatever it is given
        and _rank(model.demand, placement.option) > 0
    )


def due(model: ModelState) -> float:
    """When it may be moved, if it stays idle until then and there is room."""
    cost = model.mean_load + model.mean_unload
    idle = BREATH if model.worked >= cost else max(QUIET, 2 * cost)
    again = model.moved_at + max(PAUSE, SELDOM * cost)
    return max(model.last_used + idle, again)


def is_better(demand: Demand, old: Placement, new: Placement) -> bool:
    """Whether the new place is worth a reload."""
    if _rank(demand, new.option) >= _rank(demand, old.option):
        return False
    if (new.option.how, new.option.context) != (old.option.how, old.option.context):
        gained = len(new.option.layers)
    else:
        gained = len(new.option.layers) - len(old.option.layers)
    partly = new.option.how == "partial" and new.option.context == old.option.context
    return not partly or gained * PART >= len(demand.options[0].layers)


def _rank(demand: Demand, option: Option) -> float:
    """How far down it is in the order of preference; of a way that is not in it any more nothing is known."""
    same = (option.how, option.context, option.gpu_layers, option.overrides)
    for rank, way in enumerate(demand.options):
        if (way.how, way.context, way.gpu_layers, way.overrides) == same:
            return rank
    return math.nan
