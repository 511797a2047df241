"""Adds the predicted and the measured memory of the answering model to each answer."""

from typing import Any

from agents.api import Agent, AtEnd, Context, Filter, Load


class Vram(Agent):
    """The figures are those of calibration, for the model's present load if it is measured by then."""

    description = "Adds the memory that the model takes, predicted and measured, to the answer"

    def stream(self, ctx: Context) -> Filter:
        """Look up the figures at the end of the answer, when a newly loaded model is measured."""
        return AtEnd(lambda: {"vram": report(ctx.model, ctx.memory(ctx.model))})


def report(model: str, load: Load | None) -> dict[str, Any]:
    """Return the figures in bytes; null where unknown.

    `predicted` and `buffers` cover llama.cpp's buffers alone, the latter by its log; `measured` is the
    driver's figure for the process on the card. `error` is the difference of the first two, as a part of the
    second.
    """
    if load is None:
        return {"model": model, "note": "no load of this model has been measured yet"}
    return {
        "model": load.model,
        "certainty": load.certainty,
        "load_seconds": round(load.seconds, 3),
        "devices": [
            {
                "gpu": device.gpu,
                "predicted": device.predicted,
                "buffers": device.buffers,
                "measured": max(device.measured or 0, device.peak or 0) or None,
                "error": _error(device.predicted, device.buffers),
            }
            for device in load.devices
        ],
        "host": {
            "predicted": load.host_predicted,
            "buffers": load.host_buffers,
            "error": _error(load.host_predicted, load.host_buffers),
        },
    }


def _error(predicted: int, actual: int | None) -> float | None:
    return round((predicted - actual) / actual, 4) if actual else None
