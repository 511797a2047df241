"""A gateway under test: `run.py` as a child process, its log, and its model servers."""

import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from actors.config.certificate import client_context
from actors.config.schema import Tls
from actors.processes import OWNER
from tests.log_calls import undocumented

CHECKOUT = Path(__file__).resolve().parents[1]
Json = dict[str, Any]
HELLO = [{"role": "user", "content": "hello"}]
FOREVER = [{"role": "user", "content": "forever"}]


def until(condition: Callable[[], Any], what: str, timeout: float = 10.0) -> Any:
    """Wait until `condition` gives something true, and return it."""
    deadline = time.monotonic() + timeout
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what}")
        threading.Event().wait(0.01)
    return found


def marked_processes() -> dict[str, list[int]]:
    """Pids of model servers, by the mark of the gateway they belong to."""
    found: dict[str, list[int]] = {}
    for process in psutil.process_iter():
        try:
            mark = process.environ().get(OWNER)
            if mark and process.status() != psutil.STATUS_ZOMBIE:
                found.setdefault(mark.partition(":")[0], []).append(process.pid)
        except (psutil.Error, OSError):
            continue
    return found


class Gateway:
    """A running gateway. `log` grows as it logs."""

    def __init__(self, process: "subprocess.Popen[bytes]", trusted: ssl.SSLContext | None = None) -> None:
        self.process = process
        self.log: list[Json] = []
        self.may_crash = False
        """Whether somebody else's code in it may: then the log has its traceback."""
        self.raw: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url = str(self.wait_for("listening")["url"])
        self.client = httpx.Client(base_url=self.url, timeout=30, verify=trusted or True)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            text = line.decode()
            self.raw.append(text)
            if text.startswith("{"):
                self.log.append(json.loads(text))

    def wait_for(self, event: str, timeout: float = 20.0, **fields: Any) -> Json:
        """The first log line with this event and these fields."""

        def find() -> Json | None:
            if self.process.poll() is not None and not self._reader.is_alive():
                raise AssertionError(f"the gateway ended: {''.join(self.raw[-20:])}")
            for line in list(self.log):
                if line["event"] == event and all(line.get(key) == value for key, value in fields.items()):
                    return line
            return None

        found: Json = until(find, f"log line {event!r} with {fields}", timeout)
        return found

    def chat(self, model: str = "demo", **fields: Any) -> httpx.Response:
        """POST a chat completion."""
        body = {"model": model, "messages": HELLO, "max_tokens": 8, "temperature": 0, **fields}
        return self.client.post("/v1/chat/completions", json=body)

    def health(self) -> Json:
        """GET /health."""
        answer: Json = self.client.get("/health").json()
        return answer

    def model(self, name: str) -> Json:
        """One model of /health."""
        status: Json = self.health()["models"][name]
        return status

    def direct(self, name: str) -> httpx.Client:
        """A client of a model's own server."""
        (server,) = [server for server in self.health()["servers"] if server["model"] == name]
        port = server["endpoint"].rpartition(":")[2]
        (process,) = [process for process in map(psutil.Process, self.servers()) if port in process.cmdline()]
        headers = {"Authorization": f"Bearer {process.environ()['LLAMA_API_KEY']}"}
        return httpx.Client(base_url=f"http://{server['endpoint']}", headers=headers, timeout=30)

    def servers(self) -> list[int]:
        """Pids of its model servers."""
        return marked_processes().get(str(self.process.pid), [])

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout: float = 20.0) -> int:
        """Signal it and wait; return its exit status."""
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(timeout)
        finally:
            self._reader.join(5)


@contextmanager
def running(config: Json, folder: Path, **environment: str) -> Iterator[Gateway]:
    """A gateway with this configuration, on a free port. Afterwards no process of it may be left."""
    config.setdefault("server", {}).setdefault("log", {"level": "debug", "format": "json"})
    config.setdefault("server_pool", {}).setdefault("port_start", 0)
    config["server_pool"].setdefault("runtime", "embedded")
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    process = subprocess.Popen(
        [sys.executable, str(CHECKOUT / "run.py"), "--config", str(path), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "XDG_DATA_HOME": str(folder / "data"), **environment},
    )
    try:
        tls = Tls(**config["server"].get("tls", {}))
        gateway = Gateway(process, client_context(tls) if tls.enabled else None)
        yield gateway
        status = gateway.stop()
        assert status in (0, -signal.SIGKILL), "".join(gateway.raw[-30:])
        log = "".join(gateway.raw)
        assert gateway.may_crash or "Traceback" not in log, log[log.find("Traceback") - 2000 :][:8000]
        assert not undocumented(gateway.log), "add it to docs/logs.md"
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    until(lambda: str(process.pid) not in marked_processes(), "all model servers gone", 5)
