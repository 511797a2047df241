"""`run.py ps`: what a running gateway does at present."""

import argparse
import json
from collections.abc import Sequence
from typing import Any

from actors.commands.effective_config import read
from actors.commands.running_gateway import ask, reporting
from actors.progress import readable_size
from actors.terminal import printable, say

Json = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("--all", action="store_true", help="also the models that are not loaded")
    parser.add_argument("--json", action="store_true", help="for programs")


@reporting
def run(options: argparse.Namespace) -> int:
    """Print models, running and waiting requests; return the exit status."""
    _, config = read(options)
    state: Json = {}
    for path in ("models", "requests", "queue"):
        state |= ask(config, "GET", f"/admin/{path}")
    if not options.all:
        state["models"] = [model for model in state["models"] if model["state"] != "stopped"]
    if options.json:
        say(json.dumps(state, indent=2))
        return 0
    waiting = {one["id"] for one in state["waiting"]}
    running = [one for one in state["requests"] if one["id"] not in waiting]
    _show(("MODEL", "STATE", "BUSY", "PLACE", "MEMORY", "IDLE", ""), map(_model, state["models"]))
    _show(("REQUEST", "MODEL", "KEY", "PHASE", "SECONDS", "TOKENS", "PER S"), map(_running, running))
    _show(("WAITING", "MODEL", "KEY", "PLACE", "SECONDS", "ABOUT", "FOR"), map(_waiting, state["waiting"]))
    if not state["models"] and not state["requests"]:
        say("No model is loaded.")
    return 0


def _model(model: Json) -> Sequence[object]:
    placement = model["placement"] or {}
    memory = sum(placement.get("gpu_memory", {}).values()) + (placement.get("host_memory") or 0)
    remarks = ["pinned"] if model["pinned"] else []
    if download := model["download"]:
        remarks.append(f"{readable_size(download['bytes'])} of {readable_size(download['total_bytes'])}")
    if model["waiting"]:
        remarks.append(f"{model['waiting']} waiting")
    if model["state"] == "failed":
        remarks.append(model["error"])
    idle = model["idle_seconds"]
    return (
        model["name"],
        model["state"],
        f"{model['busy']}/{model['slots']}" if model["slots"] else "",
        model["place"] or "",
        readable_size(memory) if placement else "",
        "" if idle is None else f"{idle:.0f} s",
        ", ".join(remarks),
    )


def _running(request: Json) -> Sequence[object]:
    tokens, rate = request["completion_tokens"], request["tokens_per_second"]
    return (
        request["id"],
        request["model"],
        request["key"] or "-",
        request["phase"],
        f"{request['seconds']:.1f}",
        "" if tokens is None else tokens,
        "" if rate is None else f"{rate:.1f}",
    )


def _waiting(request: Json) -> Sequence[object]:
    return (
        request["id"] or "-",
        request["model"],
        request["key"] or "-",
        request["place"],
        f"{request['waited_seconds']:.1f}",
        f"{request['eta_seconds']:.0f} s",
        request["reason"],
    )


def _show(head: Sequence[str], rows: "map[Sequence[object]]") -> None:
    """Print a table, if it has any rows."""
    table = [head, *([printable(str(cell)) for cell in row] for row in rows)]
    if len(table) == 1:
        return
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    for row in table:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    say()
