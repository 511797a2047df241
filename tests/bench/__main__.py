"""Direct, nginx, llama-swap and the gateway on the same upstream, interleaved; medians and ratios.

nginx is measured where it is installed, llama-swap where the variable LLAMA_SWAP names its binary.
"""

import argparse
import datetime
import json
import os
import platform
import shlex
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import yaml

CHECKOUT = Path(__file__).resolve().parents[2]
STREAMS, SHORT_CONNECTIONS = 50, 16
MIB = 1048576.0
NGINX = """
worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  upstream model {{ server 127.0.0.1:{upstream}; keepalive 512; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://model; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; proxy_read_timeout 600;
    }}
  }}
}}
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def answers(port: int, seconds: float = 10) -> float:
    """Wait until a port answers GET /health; return how long it took."""
    began = time.monotonic()
    while time.monotonic() < began + seconds:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as response:
                response.read()
            return time.monotonic() - began
        except OSError:
            time.sleep(0.002)
    raise SystemExit(f"nothing answers on port {port}")


@contextmanager
def process(*command: str, log: Path, **environment: str) -> Iterator["subprocess.Popen[bytes]"]:
    with log.open("wb") as output:
        child = subprocess.Popen(
            command, cwd=CHECKOUT, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **environment}
        )
        try:
            yield child
        finally:
            child.terminate()
            child.wait(20)


def cpu_seconds(pids: list[int]) -> float:
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return float(sum(time.user + time.system for time in times))


class Target:
    """Something to send load to, and the processes whose cost counts."""

    def __init__(self, name: str, port: int, pids: list[int], *options: str) -> None:
        self.name = name
        self.options = options
        self.port = port
        self.pids = pids
        self.streams: list[dict[str, float]] = []
        self.shorts: list[dict[str, float]] = []

    def load(self, kind: str, *options: str) -> dict[str, float]:
        before = cpu_seconds(self.pids)
        command = [sys.executable, "-m", "tests.bench.load", kind, str(self.port), *options]
        done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
        seen: dict[str, float] = json.loads(done.stdout)
        seen["cpu"] = cpu_seconds(self.pids) - before
        return seen

    def memory(self) -> float:
        return sum(float(psutil.Process(pid).memory_info().rss) for pid in self.pids) / MIB


def median(rows: list[dict[str, float]], value: Callable[[dict[str, float]], float]) -> float:
    return statistics.median(value(row) for row in rows)


def start_nginx(stack: ExitStack, folder: Path, upstream: int) -> Target | None:
    binary = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if binary is None:
        print("nginx is not installed (apt-get install nginx-light), so the comparison lacks its limit\n")
        return None
    folder.mkdir()
    port = free_port()
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, upstream=upstream, port=port))
    nginx = stack.enter_context(process(binary, "-c", str(folder / "nginx.conf"), log=folder / "log"))
    answers(port)
    return Target("nginx", port, [child.pid for child in psutil.Process(nginx.pid).children()])


def start_llama_swap(stack: ExitStack, folder: Path) -> Target | None:
    binary = os.environ.get("LLAMA_SWAP")
    if binary is None:
        print("LLAMA_SWAP does not name a llama-swap, so the comparison lacks it\n")
        return None
    folder.mkdir()
    port = free_port()
    upstream = [sys.executable, "-m", "tests.bench.upstream", "--port", "${PORT}"]
    model = {"cmd": shlex.join(upstream).replace("'", ""), "concurrencyLimit": 1000}
    config = {"startPort": free_port(), "models": {"bench": model}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    command = [binary, "-config", str(folder / "config.yaml"), "-listen", f"127.0.0.1:{port}"]
    swap = stack.enter_context(process(*command, log=folder / "log"))
    answers(port)
    target = Target("llama-swap", port, [swap.pid])
    target.load("stream", "--connections", "1", "--tokens", "3")
    return target


def start_gateway(stack: ExitStack, folder: Path) -> Target:
    port = free_port()
    model = folder / "bench.gguf"
    model.write_bytes(b"GGUF" + (3).to_bytes(4, "little") + bytes(16))
    config = {
        "server": {"port": port, "log": {"format": "json"}},
        "server_pool": {
            "port_start": 0,
            "runtime": "llama-server",
            "command": [sys.executable, "-m", "tests.bench.upstream"],
        },
        "agents": ["pass_on"],
        "agent_folders": [str(Path(__file__).parent / "agents")],
        "agent_data": str(folder / "agents"),
        "llama_cpp": {"models": {"bench": {"path": str(model), "parallel": 64}}},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    # As it is installed: `rich` is here for import-linter, and structlog imports it where it is (3 MB).
    (folder / "rich.py").write_text("raise ImportError")
    command = [sys.executable, "run.py", "--config", str(folder / "config.yaml")]
    gateway = stack.enter_context(process(*command, log=folder / "gateway.log", PYTHONPATH=str(folder)))
    answers(port)
    return Target("gateway", port, [gateway.pid])


def cold_load(gateway: Target) -> tuple[float, float]:
    """Milliseconds of the first request to an unloaded model, and of its server's start alone."""
    first = gateway.load("stream", "--connections", "1", "--tokens", "3")["first_p50_us"] / 1000
    alone = []
    for _ in range(3):
        port = free_port()
        command = [sys.executable, "-m", "tests.bench.upstream", "--port", str(port)]
        with process(*command, log=Path(os.devnull)):
            alone.append(answers(port) * 1000)
    return first, statistics.median(alone)


def main() -> None:
    """Measure, print, and keep the raw figures if asked to."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8, help="of each stream")
    parser.add_argument("--quick", action="store_true", help="one round of 2 seconds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the raw figures")
    options = parser.parse_args()
    rounds, seconds = (1, 2.0) if options.quick else (options.rounds, options.seconds)
    tokens = str(int(seconds * 100))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port = free_port()
        command = [sys.executable, "-m", "tests.bench.upstream", "--port", str(port)]
        upstream = stack.enter_context(process(*command, log=folder / "upstream.log"))
        answers(port)
        gateway = start_gateway(stack, folder)
        idle = gateway.memory()
        first, alone = cold_load(gateway)
        nginx = start_nginx(stack, folder / "nginx", port)
        swap = start_llama_swap(stack, folder / "llama-swap")
        special = [
            Target("to Ollama's API", gateway.port, gateway.pids, "--api", "ollama"),
            Target("with an agent", gateway.port, gateway.pids, "--agents", "pass_on"),
        ]
        peers = [peer for peer in (nginx, swap) if peer is not None]
        targets = [Target("direct", port, [upstream.pid]), *peers, gateway, *special]
        for _ in range(rounds):
            for target in targets:
                many = ("--connections", str(STREAMS), "--tokens", tokens, *target.options)
                target.streams.append(target.load("stream", *many))
            for target in targets:
                if target in special:
                    continue
                size = ("--connections", str(SHORT_CONNECTIONS), "--seconds", str(min(seconds, 4)))
                target.shorts.append(target.load("short", *size))
        after = gateway.memory()
        report(targets, idle=idle, after=after, cold=first - alone, rounds=rounds, seconds=seconds)
        if options.json:
            raw = {target.name: {"streams": target.streams, "shorts": target.shorts} for target in targets}
            options.json.write_text(json.dumps({**raw, "idle_mb": idle, "after_mb": after}, indent=1))


def report(
    targets: list[Target], *, idle: float, after: float, cold: float, rounds: int, seconds: float
) -> None:
    """Print the table and the goals."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cpu = names[0] if names else platform.machine()
    date = datetime.datetime.now(datetime.UTC).date()
    print(f"{date}, {os.cpu_count()} x {cpu}, Python {platform.python_version()}")
    print(f"{STREAMS} streams x 100 events/s for {seconds:g} s; {SHORT_CONNECTIONS} of short answers;")
    print(f"medians of {rounds} rounds; CPU is that of the proxy process alone (direct: of the upstream)\n")
    titles = ("CPU us/event", "latency p50 us", "p99 us", "first byte us", "short req/s", "CPU us/request")
    print(f"| {'':15} | {' | '.join(titles)} |")
    print(f"|{'-' * 17}|{'|'.join('-' * (len(title) + 2) for title in titles)}|")
    rows: dict[str, tuple[float, ...]] = {}
    for target in targets:
        assert all(row["finished"] == STREAMS for row in target.streams), f"{target.name}: broken streams"
        row: tuple[float, ...] = (
            median(target.streams, lambda row: row["cpu"] * 1e6 / row["events"]),
            median(target.streams, lambda row: row["p50_us"]),
            median(target.streams, lambda row: row["p99_us"]),
            median(target.streams, lambda row: row["first_p50_us"]),
        )
        if target.shorts:
            row += (
                median(target.shorts, lambda row: row["requests"] / row["seconds"]),
                median(target.shorts, lambda row: row["cpu"] * 1e6 / row["requests"]),
            )
        rows[target.name] = row
        cells = [f"{value:.0f}" for value in row] + [""] * (len(titles) - len(row))
        padded = (f"{cell:>{len(title)}}" for cell, title in zip(cells, titles, strict=True))
        print(f"| {target.name:15} | {' | '.join(padded)} |")
    print(f"\nmemory of the gateway: {idle:.0f} MB idle, {after:.0f} MB after the load")
    print(f"a cold load adds {cold:.0f} ms to the model server's own start\n")
    direct, gateway = rows["direct"], rows["gateway"]
    goals = [
        ("CPU per event translated / relayed", rows["to Ollama's API"][0] / gateway[0], "<=", 2.5),
        ("CPU per event with an agent / relayed", rows["with an agent"][0] / gateway[0], "<=", 2.5),
        ("short answers per core-second", 1e6 / gateway[5], ">=", 4000.0),
        ("MB resident when idle", idle, "<=", 55.0),
        ("ms added to a cold load", cold, "<=", 100.0),
    ]
    if nginx := rows.get("nginx"):
        ratio = (gateway[1] - direct[1]) / max(1.0, nginx[1] - direct[1])
        goals.insert(0, ("CPU per event / nginx's", gateway[0] / nginx[0], "<=", 1.3))
        goals.insert(1, ("added latency p50 / nginx's", ratio, "<=", 1.0))
    if swap := rows.get("llama-swap"):
        goals.append(("CPU per short answer / llama-swap's", gateway[5] / swap[5], "<=", 0.7))
        goals.append(("first byte of fifty streams / llama-swap's", gateway[3] / swap[3], "<=", 1.5))
    for name, value, relation, goal in goals:
        met = value >= goal if relation == ">=" else value <= goal
        print(f"{'met   ' if met else 'MISSED'}  {name}: {value:.2f} (goal {relation} {goal:g})")


if __name__ == "__main__":
    main()
