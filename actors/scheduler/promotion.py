"""Decides when a model that was placed badly, because memory was short, moves to a better place. Pure.

When the model was loaded, others had the memory, so a part of it is on the host or its context is smaller. A
move is a reload, so:

* the model moves only while it is idle and no request waits for any model;
* it must have worked in the worse place for as long as a reload takes, so that as much time may have been
  lost as the reload costs; or it must have been idle for much longer than a reload takes, so that a request
  is unlikely to come during the move;
* the room must have been free for a while, and the gain must be more than a few layers;
* it does not move again soon, even if free memory changes often.
"""

import math

from actors.placement.fit import Placement
from actors.placement.ledger import Holding
from actors.placement.options import Demand, Option
from actors.scheduler.lifecycle import State
from actors.scheduler.model_states import ModelState

BREATH = 0.5
"""Least seconds without a request after which a model that works a lot counts as idle."""

QUIET = 3.0
"""Least seconds without a request after which a model that has hardly worked may be moved."""

SETTLED = 2.0
"""Seconds for which the room must have been free."""

PAUSE = 60.0
"""Least seconds between two moves of a model."""

SELDOM = 10.0
"""Least time between two moves, as a multiple of a move's duration."""

PART = 8
"""A move must bring at least one in this many layers onto GPUs."""


def is_stuck(model: ModelState, holding: Holding) -> bool:
    """Whether a model is idle and runs in a worse place than its best one."""
    placement = holding.placement
    return (
        model.life.state is State.READY
        and not model.holders
        and model.used
        and model.demand is not None
        and placement.managed
        and not model.figures.on_host  # it stays on the host, whatever GPUs it is given
        and _rank(model.demand, placement.option) > 0
    )


def due(model: ModelState) -> float:
    """Return when the model may be moved, if it stays idle until then and there is room."""
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
    """Return an option's position in the order of preference; NaN if it is no longer an option."""
    same = (option.how, option.context, option.gpu_layers, option.overrides)
    for rank, way in enumerate(demand.options):
        if (way.how, way.context, way.gpu_layers, way.overrides) == same:
            return rank
    return math.nan
