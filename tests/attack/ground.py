"""The gateway under attack, and what watches it."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import httpx
import psutil
import yaml

from tests.gateway import CHECKOUT, until

Json = dict[str, Any]
LONGEST_GAP = 0.2
"""Seconds that a stream may stand still because of what others do."""
FAULT_SERVER = [sys.executable, "-m", "tests.attack.fault_server"]
CRASHES = re.compile(r"Traceback|request could not be handled")


def fault_model(*flags: str, **settings: Any) -> Json:
    """A model whose server answers as it is told to."""
    # The embedded demo's file is only there to be found; the fault server reads none.
    return {"path": "builtin:demo", "command": [*FAULT_SERVER, *flags], "parallel": 64, **settings}


def models() -> Json:
    """One model that is steady, one that is not, one that is real."""
    demo = {"path": "builtin:demo", "ctx_size": 4096, "arguments": ["--threads", "1"]}
    return {"steady": fault_model(), "faulty": fault_model(), "demo": demo}


class Gateway:
    """A gateway as a process of its own; its log is in `log_file` if it has one."""

    def __init__(self, process: "subprocess.Popen[bytes]", url: str, log_file: Path | None) -> None:
        self.process = process
        self.url = url
        self.port = int(url.rpartition(":")[2])
        self.client = httpx.Client(base_url=url, timeout=60)
        self._log_file = log_file

    @property
    def log(self) -> str:
        """All that it has logged."""
        return self._log_file.read_text(errors="replace") if self._log_file else ""

    @property
    def memory(self) -> int:
        """Bytes that it has in memory, without its model servers."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def chat(
        self, order: str, model: str = "faulty", path: str = "/v1/chat/completions", **fields: Any
    ) -> httpx.Response:
        """A request whose text is an order for the fault server."""
        return self.client.post(path, json=body_of(path, order, model=model, **fields))

    def crashes(self) -> list[str]:
        """What its log says of crashes."""
        lines = self.log.splitlines()
        return [f"in the log: {line[:300]}" for line in lines if CRASHES.search(line)][:3]

    def stop(self, timeout: float = 20) -> list[str]:
        """End it; the faults of its end."""
        self.client.close()
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return [f"TERM did not end it within {timeout:g} s"]
        return [] if status == 0 else [f"TERM ended it with status {status}"]


@contextmanager
def launched(
    folder: Path,
    *,
    stdout: "IO[bytes] | int | None" = None,
    redirect: str = "",
    ports: int = 0,
    **sections: Any,
) -> Iterator[Gateway]:
    """A gateway that listens, whose model servers have ports from `ports` upwards.

    Its log goes to `stdout`, or to a file; `redirect` is put behind its command line.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {"llama_cpp": {"models": models()}, **sections}
    config["server_pool"] = {"port_start": ports, "runtime": "embedded", "size": 8}
    config["server"] = {"log": {"level": "info", "format": "json"}}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    port = free_port()
    command = [sys.executable, str(CHECKOUT / "run.py"), "--config", str(path), "--port", str(port)]
    log_file = None if stdout is not None or redirect else folder / "log"
    with ExitStack() as stack:
        out: IO[bytes] | int = subprocess.DEVNULL
        if stdout is not None:
            out = stdout
        elif log_file is not None:
            out = stack.enter_context(log_file.open("wb"))
        process = subprocess.Popen(
            ["sh", "-c", f"exec {shlex.join(command)} {redirect}"] if redirect else command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=CHECKOUT,
            env={
                **os.environ,
                "XDG_CACHE_HOME": str(folder.parent / "cache"),
                "XDG_DATA_HOME": str(folder / "data"),
            },
        )
        try:
            gateway = Gateway(process, f"http://127.0.0.1:{port}", log_file)
            until(lambda: answers(gateway), "the gateway answers", 30)
            yield gateway
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def answers(gateway: Gateway) -> bool:
    """Whether it answers at all."""
    try:
        return gateway.client.get("/health/live").status_code == 200
    except httpx.TransportError:
        assert gateway.process.poll() is None, (
            f"the gateway ended with {gateway.process.returncode}: {gateway.log[-2000:]}"
        )
        return False


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def body_of(path: str, order: str, **fields: Any) -> Json:
    """A request to this endpoint whose text is `order`."""
    text: Json = {"messages": [{"role": "user", "content": order}]}
    if path == "/v1/messages":
        text["max_tokens"] = 100
    elif path == "/v1/responses":
        text = {"input": order}
    elif path in ("/v1/completions", "/completion", "/api/generate"):
        text = {"prompt": order}
    return {**text, **fields}


class Bystander:
    """Reads a steady stream through the gateway while others attack it."""

    def __init__(self, gateway: Gateway) -> None:
        self._control = subprocess.Popen(FAULT_SERVER, stdout=subprocess.PIPE, cwd=CHECKOUT, text=True)
        assert self._control.stdout is not None
        port = self._control.stdout.readline().split()[-1]
        command = [sys.executable, "-m", "tests.attack.bystander", str(gateway.port), "steady", port]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=CHECKOUT, text=True
        )
        self.faults()

    def faults(self) -> list[str]:
        """What has happened to the stream since this was asked last."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        told = json.loads(self._process.stdout.readline())
        through, past = told["through"], told["past"]
        self.gap = through["longest"]
        if through["ended"]:
            return ["the bystander's stream ended"]
        if through["longest"] > LONGEST_GAP + past["longest"]:
            gaps = f"{through['longest']:.2f} s (past the gateway: {past['longest']:.2f} s)"
            return [f"the bystander's stream stood still for {gaps}"]
        return []

    def stop(self) -> None:
        """End both processes."""
        for process in (self._process, self._control):
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


@contextmanager
def watched(gateway: Gateway) -> Iterator[Bystander]:
    """A bystander whose stream flows."""
    gateway.chat("do:good", model="steady")
    bystander = Bystander(gateway)
    try:
        time.sleep(0.5)
        bystander.faults()
        yield bystander
    finally:
        bystander.stop()
