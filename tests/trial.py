"""A machine with two pretended GPUs and real llama.cpp servers: `python -m tests.trial`, for a minute.

NVML is a stand-in (tests/fake_nvml), so that the gateway sees two GPUs, each with room for one of three
models; the servers behind it are real ones, on the CPU. Four steady clients use all three. Afterwards it
says who was served, how long anybody waited, what the log said of each swap, and whether what was predicted
is what the servers then told. Exit status 1 when somebody starved or a request failed. With `--stay` it goes
on until Ctrl-C, and says where the page is that shows which model waits and why.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from tests import fake_nvml, gpu_server
from tests.gateway import CHECKOUT, Gateway, running

MIB = 1 << 20
MODELS = ("a", "b", "c")
GPU = 780 * MIB
"""The gateway expects 500 MiB beside llama.cpp's buffers of each process: a second one does not fit."""
PATIENCE = 5.0
PATTERNS = ("ab", "bc", "ca", "abc")
"""What each of the clients asks for, in turn."""


def machine(folder: Path) -> dict[str, str]:
    """The environment in which there are two GPUs."""
    gpus = [{"uuid": f"GPU-{name}", "name": "Pretended", "total": GPU} for name in ("left", "right")]
    told = fake_nvml.write(folder / "nvml.json", gpus=gpus, driver="1", context=400 * MIB, lag=0.1)
    return {**told, "XDG_CACHE_HOME": str(folder)}


def config() -> dict[str, Any]:
    """Three models of a size, of which two fit."""
    model = {
        "path": "builtin:demo",
        "ctx_size": 4096,
        "parallel": 2,
        "command": gpu_server.COMMAND,
        "arguments": ["--threads", "1"],
    }
    pool = {"size": 0, "patience": PATIENCE}
    return {"llama_cpp": {"models": dict.fromkeys(MODELS, model)}, "server_pool": pool}


def use(gateway: Gateway, seconds: float | None) -> list[dict[str, Any]]:
    """Four clients that ask again when they are answered; what each request came to. None: until Ctrl-C."""
    is_over = threading.Event()
    results: list[dict[str, Any]] = []

    def ask(pattern: str) -> None:
        with httpx.Client(base_url=gateway.url, timeout=120) as client:
            for model in itertools.cycle(pattern):
                if is_over.is_set():
                    return
                began = time.monotonic()
                messages = [{"role": "user", "content": "Tell me a story"}]
                body = {"model": model, "messages": messages, "max_tokens": 200, "temperature": 0}
                try:
                    answer = client.post("/v1/chat/completions", json=body)
                except httpx.HTTPError:
                    if is_over.is_set():  # Ctrl-C ends the gateway too
                        return
                    raise
                results.append(
                    {
                        "client": pattern,
                        "model": model,
                        "status": answer.status_code,
                        "seconds": time.monotonic() - began,
                        "place": answer.headers.get("X-Model-Place"),
                    }
                )

    clients = [threading.Thread(target=ask, args=(pattern,)) for pattern in PATTERNS]
    for client in clients:
        client.start()
    with suppress(KeyboardInterrupt):
        is_over.wait(seconds)
    is_over.set()
    for client in clients:
        client.join()
    return results


def plans(folder: Path, environment: dict[str, str]) -> dict[str, Any]:
    """What `run.py plan` says of a model."""
    command = [sys.executable, str(CHECKOUT / "run.py"), "--config", str(folder / "config.yaml")]
    told = subprocess.run(
        [*command, "plan", "a", "--json"], capture_output=True, text=True, env=environment, check=True
    )
    answer: dict[str, Any] = json.loads(told.stdout)
    return answer


def main() -> int:
    """Run the trial and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--stay", action="store_true", help="until Ctrl-C, to look at the page")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with running(config(), folder, **machine(folder)) as gateway:
            if options.stay:
                print(f"three models, of which two fit: {gateway.url}/ui (Ctrl-C ends it)", flush=True)
            results = use(gateway, None if options.stay else options.seconds)
            lines = list(gateway.log)
    for line in lines:
        if line["event"] in ("model starts", "model drains", "model stops"):
            print(f"{line['event']:<13} {line['model']}  {line.get('place') or '':<8} {line['why']}")
    print()
    for model in MODELS:
        mine = [result["seconds"] for result in results if result["model"] == model]
        if mine:
            mine.sort()
            median = mine[len(mine) // 2]
            print(f"{model}: {len(mine)} answers, median {median:.2f} s, longest {mine[-1]:.2f} s")
    places = Counter(result["place"] for result in results)
    failed = [result for result in results if result["status"] != 200]
    loads = sum(line["event"] == "model is ready" for line in lines)
    print(f"places: {dict(places)}; {loads} loads; {len(failed)} failed")
    starved = {model for model in MODELS if not any(result["model"] == model for result in results)}
    return 0 if options.stay else 1 if failed or starved else 0


if __name__ == "__main__":
    sys.exit(main())
