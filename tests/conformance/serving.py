"""The gateway that the suite and `make clients` ask, and the models behind it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.conftest import DEMO, EMBED
from tests.gateway import Gateway, running
from tests.ollama_daemons import real_daemon, stand_in_daemon

STAND_IN = ("--model", "tiny", "--model", "tiny-embed", "--thinking-model", "tiny-thinker")


class Backend(NamedTuple):
    """What serves the models, and their names: one that talks, one that reasons before, one that embeds."""

    name: str
    talks: str
    reasons: str
    embeds: str


LLAMA_CPP = Backend("llama.cpp", "demo", "demo-reasoning", "demo-embed")
OLLAMA = Backend("Ollama", "tiny", "tiny-thinker", "tiny-embed")
REAL_OLLAMA = Backend("real Ollama", "real-tiny", "real-tiny", "real-tiny-embed")
HAS_REAL_OLLAMA = bool(os.environ.get("OLLAMA_HOST") or shutil.which("ollama"))
BACKENDS = [LLAMA_CPP, OLLAMA] + [REAL_OLLAMA] * HAS_REAL_OLLAMA
MODELS: dict[str, dict[str, Any]] = {
    "demo": {**DEMO, "ctx_size": 262144, "parallel": 2},
    "demo-short": {**DEMO, "ctx_size": 1024, "aliases": []},
    "demo-reasoning": {**DEMO, "path": "builtin:demo-reasoning", "aliases": []},
    "demo-embed": EMBED,
}


@contextmanager
def serving(folder: Path, cache: str) -> Iterator[Gateway]:
    """A gateway with all of these models, while the block lasts."""
    with ExitStack() as stack:
        daemons = {"stand-in": stack.enter_context(stand_in_daemon(*STAND_IN))}
        if HAS_REAL_OLLAMA:
            made = {REAL_OLLAMA.talks: False, REAL_OLLAMA.embeds: True}
            daemons["real"] = stack.enter_context(real_daemon(folder, made))
        config = {
            "llama_cpp": {"models": MODELS},
            "ollama": {"daemons": daemons},
            "server_pool": {"size": 8},
            "server": {"keep_responses": 600, "log": {"level": "debug", "format": "json"}},
        }
        started = stack.enter_context(running(config, folder, XDG_CACHE_HOME=cache))
        started.wait_for("Ollama daemon answers")
        yield started
