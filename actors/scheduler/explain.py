"""Explains a decision in figures and words, for `run.py plan` and `GET /admin/plan`. Pure."""

from typing import Any

from actors.memory.prediction.results import HOST, MemoryUsage, Prediction
from actors.placement.fit import Placement
from actors.placement.ledger import Ledger
from actors.placement.options import MIB, Demand
from actors.scheduler.allocator import Decision, MakeRoom, Refuse, Seat, Wait
from actors.scheduler.model_states import ModelState

COMPONENTS = ("weights", "kv", "compute", "output")

BAR = 40
"""Columns of a GPU's bar."""


def explain(
    name: str,
    demand: Demand,
    decision: Decision | None,
    placement: Placement | None,
    predicted: Prediction | None,
    ledger: Ledger,
) -> dict[str, Any]:
    """Explain a decision for programs; sizes are bytes. Without a decision the model runs already.

    `free` of a GPU includes the memory of the model itself and of models that would make room for it.
    """
    answer: dict[str, Any] = {"model": name, "action": _action(decision), "reason": _why(decision, placement)}
    answer["load_seconds"] = demand.load_seconds
    answer["evicts"] = _victims(decision, ledger)
    if placement is None:
        return answer
    answer["placement"] = placement.how
    answer["why"] = placement.why
    answer["context"] = placement.option.context
    answer["slot_context"] = placement.option.slot or placement.option.context
    answer["certainty"] = placement.option.certainty
    answer["learned"] = _learned(placement)
    answer["origins"] = _origins(placement, predicted)
    gone = {name, *(victim["model"] for victim in answer["evicts"])}
    answer["gpus"] = [
        _gpu(ledger, placement, nth, predicted.gpus[nth] if predicted else None, gone)
        for nth in range(len(placement.shares))
    ]
    host = predicted.host if predicted else None
    answer["host"] = {
        "layers": _layers(predicted, HOST),
        "free": None if ledger.host is None else ledger.host.available,
        "set_aside": placement.host,
        "grows": placement.option.grows,
        **_bytes(host),
    }
    answer["arguments"] = placement.arguments
    answer["environment"] = placement.environment
    return answer


def _action(decision: Decision | None) -> str:
    match decision:
        case None:
            return "runs"
        case Seat():
            return "start"
        case MakeRoom():
            return "make room"
        case Wait():
            return "wait"
        case Refuse():
            return "refuse"


def _why(decision: Decision | None, placement: Placement | None) -> str:
    match decision:
        case MakeRoom(why=why) | Wait(why=why):
            return why
        case Refuse(reason=reason):
            return reason.message
        case _:
            return placement.why if placement else ""


def _victims(decision: Decision | None, ledger: Ledger) -> list[dict[str, Any]]:
    victims: tuple[ModelState, ...] = ()
    if isinstance(decision, MakeRoom):
        victims = (*decision.idle, *decision.busy)
    elif isinstance(decision, Wait):
        victims = decision.victims
    return [
        {
            "model": model.spec.name,
            "busy": bool(model.holders),
            "requests": len(model.holders),
            "frees": ledger.frees(model.spec.name),
            "reload_seconds": round(model.mean_load, 3),
        }
        for model in victims
    ]


def _learned(placement: Placement) -> dict[str, int]:
    """Explain the memory that is reserved per GPU in addition to the prediction, because of earlier loads."""
    if not placement.shares:
        return {"by_loads": 0, "ran_out": 0}
    option = placement.option
    both = option.learned[len(placement.shares) > 1]
    return {"by_loads": both - option.surcharge, "ran_out": option.surcharge}


def _origins(placement: Placement, predicted: Prediction | None) -> dict[str, dict[str, str]]:
    """Tell of each component where its figure comes from, and how sure it is."""
    certainty = placement.option.certainty
    if predicted is None or not any(usage.output for usage in (*predicted.gpus, predicted.host)):
        return {part: {"from": "the size of the file", "certainty": "fallback"} for part in COMPONENTS}
    compute = {
        "exact": "a replay of llama.cpp's graph",
        "bound": "a replay of llama.cpp's graph, and a margin for what is not replayed",
        "fallback": "an estimate, for this architecture is not modelled",
    }
    return {
        "weights": {"from": "the header", "certainty": "exact"},
        "kv": {"from": "the header and the settings", "certainty": "exact"},
        "compute": {"from": compute[certainty], "certainty": certainty},
        "output": {"from": "the vocabulary and the slots", "certainty": "exact"},
    }


def _gpu(
    ledger: Ledger, placement: Placement, nth: int, usage: MemoryUsage | None, gone: set[str]
) -> dict[str, Any]:
    share = placement.shares[nth]
    device = ledger.devices.get(share.device)
    others = ledger.foreign.get(share.device, 0) + sum(
        ledger.taken(holding, share.device) for model, holding in ledger.holdings.items() if model not in gone
    )
    return {
        "index": device.index if device else None,
        "uuid": share.device,
        "name": device.name if device else None,
        "size": device.total if device else None,
        "free": max(0, device.total - others) if device else None,
        "overhead": device.overhead if device else None,
        "set_aside": share.bytes,
        "layers": share.layers,
        **_bytes(usage),
    }


def _layers(predicted: Prediction | None, device: int) -> int | None:
    return None if predicted is None else sum(layer == device for layer in predicted.layers)


def _bytes(usage: MemoryUsage | None) -> dict[str, int | None]:
    if usage is None:
        return dict.fromkeys((*COMPONENTS, "total"))
    return {**{part: getattr(usage, part) for part in COMPONENTS}, "total": usage.total}


def in_words(answer: dict[str, Any]) -> str:
    """Explain a decision for people: a table, and a bar for each GPU."""
    lines = []
    if answer["action"] not in ("start", "runs"):
        lines += [f"{answer['action']}: {answer['reason']}", ""]
    for victim in answer["evicts"]:
        freed = ", ".join(f"{size // MIB:,} MiB of {device}" for device, size in victim["frees"].items())
        state = f"with {victim['requests']} requests, which finish first" if victim["busy"] else "idle"
        lines.append(
            f"evicts {victim['model']!r} ({state}; reload {victim['reload_seconds']:.1f} s): {freed}"
        )
    if "placement" not in answer:
        return "\n".join(lines)
    lines += [f"{answer['placement']}: {answer['why']}", ""]
    lines.append(
        f"{'MiB':<8}{'layers':>7}" + "".join(f"{part:>10}" for part in (*COMPONENTS, "total", "free"))
    )
    lines += [_row(f"GPU {gpu['index']}", gpu) for gpu in answer["gpus"]]
    lines.append(_row("host", answer["host"]))
    lines += [_bar(gpu) for gpu in answer["gpus"]]
    seconds = answer["load_seconds"]
    known = f"about {seconds:.1f} s, as before" if seconds is not None else "not known yet"
    lines += ["", f"prediction: {answer['certainty']}; context {answer['context']:,}; load: {known}"]
    lines += [
        f"{part:<8} {origin['certainty']}: {origin['from']}" for part, origin in answer["origins"].items()
    ]
    if grows := answer["host"]["grows"]:
        lines.append(f"host     of which {grows / MIB:,.0f} MiB are for prompts and checkpoints, later")
    if any(answer["learned"].values()):
        lines.append(_taught(answer["learned"]))
    lines.append("llama-server: " + (" ".join(answer["arguments"]) or "decides for itself"))
    return "\n".join(lines)


def _taught(learned: dict[str, int]) -> str:
    parts = []
    if learned["by_loads"]:
        parts.append(f"{learned['by_loads'] / MIB:+,.1f} MiB by what earlier loads took")
    if learned["ran_out"]:
        parts.append(
            f"{learned['ran_out'] / MIB:+,.1f} MiB because memory ran out in this way, until two loads were "
            "measured in it, or ten in others"
        )
    return f"set aside of each GPU beside the prediction: {'; '.join(parts)}"


def _row(title: str, device: dict[str, Any]) -> str:
    cells = [device[part] for part in ("layers", *COMPONENTS, "total", "free")]
    words = ["" if cell is None else f"{cell / (MIB if nth else 1):,.0f}" for nth, cell in enumerate(cells)]
    return f"{title:<8}{words[0]:>7}" + "".join(f"{word:>10}" for word in words[1:])


def _bar(gpu: dict[str, Any]) -> str:
    """Draw a GPU's memory: that of others, that of the model, and the rest."""
    size = max(1, gpu["size"] or 1)
    others = round(BAR * (size - (gpu["free"] or 0)) / size)
    own = min(BAR - others, max(1, round(BAR * (gpu["set_aside"] + (gpu["overhead"] or 0)) / size)))
    bar = "=" * others + "#" * own + "." * (BAR - others - own)
    return f"\nGPU {gpu['index']} [{bar}]  = others, # this model"
