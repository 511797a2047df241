"""What is reported and learned of a load's memory. Pure."""

import msgspec

from actors.errors import Failure
from actors.messages import Measured, Misplaced, RanOut
from actors.placement.fit import Placement
from actors.placement.ledger import Holding, Ledger
from actors.scheduler.model_states import ModelState

LEARNED = 512 << 20
"""Least additional bytes per GPU for a model that ran out of memory."""


def measured(model: ModelState, holding: Holding, *, ended: bool = False) -> Measured | None:
    """Return the measured memory of a load, to be recorded; None if it is recorded or was not predicted.

    `ended`: the server is gone, so that the figures are final.
    """
    if model.demand is None or model.measured > ended:
        return None
    model.measured = True
    return Measured(
        model=model.spec.name,
        epoch=model.life.epoch,
        demand=model.demand,
        placement=holding.placement,
        figures=model.figures,
        seen=dict(holding.peaks),
        seconds=model.mean_load,
        ended=ended,
    )


def ran_out(model: ModelState, holding: Holding | None, failure: Failure) -> RanOut | None:
    """Count a load that ran out of memory. Return by how much the next prediction must be larger, once."""
    model.ran_out += 1
    placement = holding.placement if holding is not None else None
    if model.ran_out > 1 or model.demand is None or placement is None or not placement.shares:
        return None
    largest = max(share.bytes for share in placement.shares)
    more = failure.lacking or max(LEARNED, largest // 10)
    return RanOut(model.spec.name, more, model.demand, placement)


def move_to_host(model: ModelState, ledger: Ledger) -> Misplaced:
    """Move the reservation of a server to the host, because it reported that it uses none of its GPUs."""
    given = model.place(ledger) or ""
    wrong = ledger.holdings[model.spec.name].placement.option
    ways = model.demand.on_host if model.demand is not None else ()
    moved = msgspec.structs.replace(
        wrong,
        how="host",
        gpu_layers=0,
        layers=(),
        pinned=wrong.pinned + sum(wrong.layers) + wrong.compute,
    )
    option = next((way for way in ways if way.context == wrong.context), moved)
    placement = Placement(option=option, shares=(), why=f"its server says that it does not use {given}")
    ledger.move_to_host(model.spec.name, placement)
    return Misplaced(model.spec.name, model.life.epoch, model.place(ledger) or "", given)
