"""The official clients of Node, and Vercel's AI SDK: each step of `node/steps.mjs` is a test here.

npm installs them into a cache folder outside of the checkout, once for each change of the lock file.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.clients.install import CannotInstallError, npm
from tests.conformance.serving import BACKENDS, Backend
from tests.conftest import missing
from tests.gateway import Gateway

HERE = Path(__file__).parent / "node"
COMMON = ["text", "text, streamed", "tools", "structured output", "reasoning", "errors"]
VERCEL = [*COMMON, "tools: a named one"]
RESPONSES = [
    f"responses: {name}" for name in ("text", "text, streamed", "tools", "structured output", "reasoning")
]
FEATURES = {
    "openai": [*COMMON, "embeddings", "models", "cancellation", *RESPONSES],
    "@anthropic-ai/sdk": [*COMMON, "counting tokens", "models"],
    "ollama": [*COMMON, "embeddings", "models"],
    "@ai-sdk/openai": [*VERCEL, "embeddings"],
    "@ai-sdk/openai-compatible": [*VERCEL, "embeddings"],
    "@ai-sdk/anthropic": VERCEL,
}
STEPS = [
    pytest.param(
        (client, feature), marks=pytest.mark.feature(feature, f"{client} (Node)"), id=f"{client}: {feature}"
    )
    for client, features in FEATURES.items()
    for feature in features
]
Results = dict[tuple[str, str, str], str]


@pytest.fixture(scope="module")
def results(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What went wrong in each step, by client, feature and backend."""
    node = shutil.which("node")
    if node is None:
        missing("there is no node on the PATH")
    try:
        folder = npm(HERE)
    except CannotInstallError as error:
        missing(f"the clients of Node cannot be installed: {error}")
    for file in HERE.glob("*.mjs"):
        shutil.copy(file, folder)
    given = {"GATEWAY": gateway.url, "BACKENDS": json.dumps([backend._asdict() for backend in BACKENDS])}
    done = subprocess.run(
        [node, "run.mjs"],
        cwd=folder,
        env={**os.environ, **given},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    return {(line["client"], line["feature"], line["backend"]): line["error"] for line in lines}


@pytest.mark.parametrize("step", STEPS)
def test_step(results: Results, step: tuple[str, str], backend: Backend) -> None:
    assert results[(*step, backend.name)] == ""


def test_every_step_is_a_test(results: Results) -> None:
    known = {(client, feature) for client, features in FEATURES.items() for feature in features}
    assert {(client, feature) for client, feature, _ in results} == known
