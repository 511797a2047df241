"""Runs the steps of a client's program, and prints a line of JSON for each: what it tried, and how that went.

A program runs in an environment of its own, so it imports nothing of the gateway. Environment variables say
whom it asks: GATEWAY is the address, MODEL one that talks and calls tools, THINKER one that reasons first,
EMBEDDER one for embeddings.
"""

import atexit
import inspect
import json
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

GATEWAY = os.environ["GATEWAY"]
MODEL = os.environ["MODEL"]
THINKER = os.environ["THINKER"]
EMBEDDER = os.environ["EMBEDDER"]
WEATHER = "How is the weather in Paris?"

_steps: list[tuple[str, Callable[[], Any]]] = []


def step(feature: str) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Marks a function that tries a feature; it may be a coroutine function."""

    def add(function: Callable[[], Any]) -> Callable[[], Any]:
        _steps.append((feature, function))
        return function

    return add


def folder_of_its_own(client: str, parent: Path | None = None) -> Path:
    """A new folder, which is deleted at the end."""
    folder = Path(tempfile.mkdtemp(prefix=f"{client}-", dir=parent))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def run() -> None:
    """Try everything, one after the other."""
    import asyncio

    wanted = sys.argv[1:]
    for feature, function in _steps:
        if wanted and not any(word in feature for word in wanted):
            continue
        try:
            made = function()
            if inspect.isawaitable(made):
                asyncio.run(made)  # type: ignore[arg-type]
            error = ""
        except Exception as failure:
            traceback.print_exc()
            error = f"{type(failure).__name__}: {failure}"[:500] or "it failed"
        print(json.dumps({"feature": feature, "error": error}), flush=True)
