"""`python -m tests.conformance.clients [CLIENT ...]`: run real clients, and print which features work.

Each step is tried on each backend. Exit status 1 if one failed, 2 if a client could not be installed.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.conformance.clients import install
from tests.conformance.clients.install import HERE, CannotInstallError
from tests.conformance.serving import BACKENDS, Backend, serving


class Program(NamedTuple):
    """A file in `programs`, and the list that has what it needs; with `npm` packages of Node too."""

    name: str
    requirements: str
    npm: bool = False
    seconds: int = 300


PROGRAMS = [
    Program("agents_sdk", "frameworks"),
    Program("langchain_clients", "frameworks"),
    Program("pydantic_ai_clients", "frameworks"),
    Program("llama_index_clients", "frameworks"),
    Program("litellm_clients", "frameworks"),
    Program("llm_command", "frameworks"),
    Program("codex", "frameworks", npm=True, seconds=600),
    Program("opencode", "frameworks", npm=True, seconds=600),
    Program("claude_code", "frameworks", npm=True, seconds=900),
    Program("open_webui", "open-webui", seconds=600),
]


class Result(NamedTuple):
    """How a step went; no error is a success."""

    client: str
    feature: str
    backend: str
    error: str


def main(wanted: list[str]) -> int:
    """Run what is wanted, or everything; the exit status."""
    programs = [program for program in PROGRAMS if not wanted or program.name in wanted]
    results: list[Result] = []
    missing = False
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), f"{folder}/cache") as gateway:
        for program in programs:
            for backend in BACKENDS:
                try:
                    for result in run(program, backend, gateway.url):
                        print(
                            f"{result.client} on {backend.name}: {result.feature}: {result.error or 'ok'}",
                            flush=True,
                        )
                        results.append(result)
                except CannotInstallError as error:
                    missing = True
                    print(f"{program.name}: cannot be installed: {error}")
    print("\n" + markdown(results))
    return 1 if any(result.error for result in results) else 2 if missing else 0


def run(program: Program, backend: Backend, url: str) -> Iterator[Result]:
    """The steps of a program, as they end."""
    given = {
        "GATEWAY": url,
        "MODEL": backend.talks,
        "THINKER": backend.reasons,
        "EMBEDDER": backend.embeds,
        "NODE_CLIENTS": str(install.npm(HERE / "agents")) if program.npm else "",
    }
    interpreter = install.python(program.requirements)
    command = [str(interpreter), str(HERE / "programs" / f"{program.name}.py")]
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    log = Path(tempfile.gettempdir()) / f"clients-{program.name}-{backend.talks}.log"
    with (
        log.open("wb") as errors,
        subprocess.Popen(command, env={**kept, **given}, stdout=subprocess.PIPE, stderr=errors) as process,
    ):
        assert process.stdout is not None
        limit = threading.Timer(program.seconds, process.kill)
        limit.start()
        try:
            for line in process.stdout:
                if line.startswith(b"{"):
                    step = json.loads(line)
                    yield Result(program.name, step["feature"], backend.name, step["error"])
            if process.wait(10):
                yield Result(
                    program.name, "all", backend.name, f"exit status {process.returncode}; see {log}"
                )
        finally:
            limit.cancel()
            process.kill()


def markdown(results: list[Result]) -> str:
    """The table of what works."""
    backends = list(dict.fromkeys(result.backend for result in results))
    lines = ["| client | feature | " + " | ".join(backends) + " |", "|---|---|" + "---|" * len(backends)]
    said = {(result.client, result.feature, result.backend): result.error for result in results}
    for client, feature in dict.fromkeys((result.client, result.feature) for result in results):
        cells = [said.get((client, feature, backend)) for backend in backends]
        words = ["" if cell is None else "no" if cell else "yes" for cell in cells]
        lines.append(f"| {client} | {feature} | " + " | ".join(words) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
