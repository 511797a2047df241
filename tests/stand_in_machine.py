"""A pretended machine with two GPUs, as `/admin` tells of it: for the page."""

import random
import time
from typing import Any

Json = dict[str, Any]
GIB = 1 << 30
HOSTILE = '<img src=x onerror="window.pwned=1"><script>window.pwned=1</script>'


def model(name: str, state: str = "stopped", **fields: Any) -> Json:
    """A model of `/admin/models`."""
    return {
        "name": name,
        "aliases": [],
        "api": "llama.cpp",
        "state": state,
        "epoch": 1,
        "pinned": False,
        "hidden": False,
        "description": None,
        "busy": 0,
        "slots": 4 if state == "ready" else 0,
        "waiting": 0,
        "place": None,
        "placement": None,
        "download": None,
        "load_seconds": 9.4,
        "ready_seconds": None,
        "idle_seconds": None,
        "idle_timeout": None,
        "failures": 0,
        "retry_in": None,
        "error": None,
        "size": 5 * GIB,
        "quantization": "Q4_K_M",
        "context": 40960,
        "capabilities": ["completion", "tools"],
        **fields,
    }


def placed(gpus: dict[str, float], measured: dict[str, float] | None = None, host: float = 0.3) -> Json:
    """A placement; GiB by GPU."""
    return {
        "how": "whole",
        "why": "it fits",
        "context": 65536,
        "slot_context": 16384,
        "certainty": "exact",
        "layers": dict.fromkeys(gpus, 36),
        "predicted_memory": {gpu: int(size * GIB) for gpu, size in gpus.items()},
        "gpu_memory": {gpu: int(size * GIB) for gpu, size in (measured or {}).items()},
        "host_memory": int(host * GIB),
    }


def gpu(index: int, uuid: str, reserved: dict[str, float], foreign: float, total: float = 24) -> Json:
    """A GPU of the memory; GiB."""
    free = total - foreign - sum(reserved.values())
    return {
        "index": index,
        "uuid": uuid,
        "name": "NVIDIA GeForce RTX 4090",
        "total_memory": int(total * GIB),
        "used_memory": int((total - free) * GIB),
        "free_memory": int(free * GIB),
        "utilization": 71 - 60 * index,
        "temperature": 64 - 20 * index,
        "power_watts": 311.0 - 250 * index,
        "reserved_memory": {name: int(size * GIB) for name, size in reserved.items()},
        "foreign_memory": int(foreign * GIB),
        "room_for_models": int(max(0.0, free - 0.9) * GIB),
        "processes": [],
        "driver": "580.1",
    }


def busy() -> Json:
    """A machine on which two models run, one loads, and two requests wait."""
    now = time.time()
    models = [
        model(
            "qwen3-32b",
            "ready",
            busy=3,
            place="GPU 0",
            idle_seconds=None,
            ready_seconds=812.0,
            placement=placed({"GPU-a": 20.1}, {"GPU-a": 19.6}),
            aliases=["default"],
            waiting=1,
        ),
        model(
            "gemma3-4b",
            "ready",
            place="GPU 1",
            idle_seconds=43.0,
            pinned=True,
            placement=placed({"GPU-b": 4.9}, {"GPU-b": 4.7}),
            capabilities=["completion", "vision"],
        ),
        model(
            "unsloth/Qwen3-Coder-30B-A3B-Instruct-GGUF:Q4_K_M",
            "fetching",
            load_seconds=None,
            download={
                "bytes": 7 * GIB,
                "total_bytes": 18 * GIB,
                "bytes_per_second": 88e6,
                "seconds_left": 131,
            },
        ),
        model("mistral-small", "starting", place="GPU 1", placement=placed({"GPU-b": 14.2}), waiting=1),
        model(
            "broken",
            "failed",
            error="llama-server ended with exit status 1: unknown model architecture: 'foo'",
            failures=3,
            retry_in=12.0,
        ),
        model("embed", capabilities=["embedding"], size=GIB // 3, description="For the search of documents"),
        model("llama3.2:3b", api="ollama"),
    ]
    requests = [
        {
            "id": f"r{nth}",
            "key": key,
            "model": name,
            "endpoint": "/v1/chat/completions",
            "phase": phase,
            "started_at": now - age,
            "seconds": age,
            "first_token_seconds": 0.4,
            "prompt_tokens": 1830 * nth + 212,
            "completion_tokens": tokens,
            "tokens_per_second": rate,
            "agents": agents,
            "place": "GPU 0",
            "stream": True,
        }
        for nth, (key, name, phase, age, tokens, rate, agents) in enumerate(
            [
                ("alice", "qwen3-32b", "answer", 31.0, 1204, 41.3, None),
                ("ci", "qwen3-32b", "answer", 8.0, 240, 39.8, "rag"),
                ("bob", "qwen3-32b", "prompt", 1.2, None, None, None),
            ]
        )
    ]
    waiting = [
        {
            "id": "w1",
            "model": "mistral-small",
            "key": "alice",
            "place": 1,
            "waited_seconds": 4.1,
            "eta_seconds": 6.0,
            "reason": "the model is being loaded on GPU 1",
        },
        {
            "id": "w2",
            "model": "qwen3-32b",
            "key": "bob",
            "place": 2,
            "waited_seconds": 2.0,
            "eta_seconds": 14.0,
            "reason": "all 4 slots are busy or kept for requests that came before",
        },
    ]
    memory = {
        "gpus": [
            gpu(0, "GPU-a", {"qwen3-32b": 20.1}, 1.2),
            gpu(1, "GPU-b", {"gemma3-4b": 4.9, "mistral-small": 14.2}, 0.3),
        ],
        "host": {"total_memory": 64 * GIB, "available_memory": 41 * GIB},
        "gpus_lost": [],
        "gpu_error": None,
    }
    return {"models": models, "requests": requests, "waiting": waiting, "memory": memory}


def activity(count: int, *, seed: int = 1) -> list[Json]:
    """Rows of `/admin/activity`, the latest first."""
    dice = random.Random(seed)
    now = time.time()
    outcomes = ["ok"] * 16 + ["failed", "client_left"]
    return [
        {
            "id": f"a{nth}",
            "at": now - nth * 7.3,
            "key": dice.choice(["alice", "bob", "ci"]),
            "model": dice.choice(["qwen3-32b", "gemma3-4b", "mistral-small"]),
            "agents": None,
            "endpoint": "/v1/chat/completions",
            "prompt_tokens": dice.randint(20, 9000),
            "cached_tokens": dice.randint(0, 20),
            "completion_tokens": dice.randint(5, 900),
            "queued_seconds": dice.expovariate(8),
            "loaded_seconds": 0.0,
            "first_token_seconds": 0.05 + dice.expovariate(3),
            "seconds": 1 + dice.expovariate(0.2),
            "status": 500
            if (outcome := dice.choice(outcomes)) == "failed"
            else 499
            if outcome != "ok"
            else 200,
            "outcome": outcome,
            "place": "GPU 0",
            "capture": nth % 9 == 0,
        }
        for nth in range(count)
    ]


def usage() -> Json:
    """`/admin/usage` by day and model."""
    dice = random.Random(3)
    days = [f"2026-11-{day:02}" for day in range(8, 29)]
    return {
        "rows": [
            {
                "key": key,
                "model": name,
                "day": day,
                "requests": dice.randint(3, 300),
                "prompt_tokens": dice.randint(1000, 900000),
                "cached_tokens": dice.randint(100, 9000),
                "completion_tokens": dice.randint(1000, 90000),
                "errors": dice.randint(0, 3),
                "seconds": 812.0,
            }
            for day in days
            for name in ("qwen3-32b", "gemma3-4b")
            for key in ("alice", "ci")
        ]
    }


KEYS = [
    {
        "name": "alice",
        "admin": False,
        "configured": False,
        "hint": "x7Qa",
        "models": ["qwen*"],
        "agents": ["*"],
        "concurrent": 4,
        "per_minute": 60,
        "tokens_per_day": 2_000_000,
        "weight": 2,
        "expires_at": None,
        "left": {"concurrent": 3, "per_minute": 52, "tokens_per_day": 1_430_211},
    },
    {
        "name": "ops",
        "admin": True,
        "configured": True,
        "hint": "9zTe",
        "models": ["*"],
        "agents": ["*"],
        "concurrent": None,
        "per_minute": None,
        "tokens_per_day": None,
        "weight": 1,
        "expires_at": 1801353600.0,
        "left": {},
    },
]
CONFIG = {
    "server": {"host": "127.0.0.1", "port": 8000, "log": {"level": "info"}},
    "keys": {"ops": {"secret": "***"}},
}
RELOAD = {
    "applied": False,
    "changes": [
        {
            "path": "llama_cpp.models.embed.ctx_size",
            "from": 4096,
            "to": 8192,
            "effect": "restarts model embed",
        },
        {"path": "keys.ci", "from": None, "to": {"secret": "***"}, "effect": "at once"},
    ],
    "faults": [],
}
CHECKS = [
    {"name": "llama-server", "status": "ok", "found": "version 7100 at /usr/bin/llama-server", "cure": None},
    {
        "name": "disk",
        "status": "warning",
        "found": "3.1 GiB free in /root/.cache",
        "cure": "run.py rm what is not used",
    },
    {"name": "docker", "status": "absent", "found": "no engine answers", "cure": None},
]
HITS = {
    "results": [{"repo": "unsloth/Qwen3-4B-GGUF", "downloads": 120345, "likes": 77, "updated": None}],
}
FILES = {
    "repo": "unsloth/Qwen3-4B-GGUF",
    "files": [
        {
            "name": f"unsloth/Qwen3-4B-GGUF:{variant}",
            "variant": variant,
            "size": int(size * GIB),
            "downloaded": False,
            "memory": int((size + 1.4) * GIB),
            "certainty": certainty,
            "place": "GPU 1",
        }
        for variant, size, certainty in (("Q4_K_M", 2.3, "exact"), ("Q8_0", 4.0, "by size"))
    ],
    "plan": None,
    "error": None,
}
