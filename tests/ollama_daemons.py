"""Ollama daemons for tests: a real one where there is one, and the stand-in as a process of its own."""

import hashlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from actors.demo.model import write_demo


@contextmanager
def stand_in_daemon(*arguments: str) -> Iterator[str]:
    """Its address, while the block lasts."""
    command = [sys.executable, "-m", "tests.stand_in_ollama", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()


@contextmanager
def real_daemon(folder: Path, models: dict[str, bool]) -> Iterator[str]:
    """Its address, with demo models by these names in it; true is one for embeddings. Skips without one.

    It is that of OLLAMA_HOST, or an `ollama` on the PATH is started, whose store is in `folder`.
    """
    given, binary = os.environ.get("OLLAMA_HOST"), shutil.which("ollama")
    if given:
        url = given if "://" in given else f"http://{given}"
        _make(url, folder, models)
        yield url
        for model in models:
            httpx.post(f"{url}/api/generate", json={"model": model, "keep_alive": 0})
            httpx.request("DELETE", f"{url}/api/delete", json={"model": model})
        return
    if not binary:
        pytest.skip("no real Ollama: OLLAMA_HOST is not set, and there is no ollama on the PATH")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    own = {"OLLAMA_HOST": address, "OLLAMA_MODELS": str(folder), "HOME": str(folder)}
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(
            [binary, "serve"], env={**os.environ, **own}, stdout=log, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            url = f"http://{address}"
            _wait_until_up(process, url)
            _make(url, folder, models)
            yield url
        finally:
            process.terminate()


def _wait_until_up(process: "subprocess.Popen[bytes]", url: str) -> None:
    deadline = time.monotonic() + 20
    while process.poll() is None:
        try:
            httpx.get(url)
            return
        except httpx.ConnectError:
            assert time.monotonic() < deadline
    pytest.fail("ollama serve ended at once")


def _make(url: str, folder: Path, models: dict[str, bool]) -> None:
    for model, embeds in models.items():
        path = folder / "demo.gguf"
        write_demo(path, embedding=embeds)
        digest = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
        httpx.post(f"{url}/api/blobs/{digest}", content=path.read_bytes()).raise_for_status()
        body = {"model": model, "files": {"demo.gguf": digest}, "stream": False}
        made = httpx.post(f"{url}/api/create", json=body, timeout=60)
        assert made.json() == {"status": "success"}
