"""Real Docker Engines: the one that answers, one of the test's own, and a wire to either that can be cut."""

import ctypes
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil

from tests.gateway import until

DEFAULT = "unix:///var/run/docker.sock"
CLONE_NEWNET = 0x40000000


class EngineClient:
    """A few questions to an engine, without aiodocker and without an event loop."""

    def __init__(self, address: str) -> None:
        self.address = address

    def ask(self, method: str, path: str, body: bytes | None = None, kind: str = "application/json") -> Any:
        """The answer, from JSON if it is that. Raises `OSError` when there is no engine, or it refuses."""
        connection = http.client.HTTPConnection("docker", timeout=120)
        with socket.socket(socket.AF_UNIX) as connection.sock:
            connection.sock.connect(self.address.removeprefix("unix://"))
            connection.request(method, path, body, {"Content-Type": kind})
            response = connection.getresponse()
            answer = response.read()
        if response.status >= 400:
            raise OSError(f"{method} {path}: {response.status} {answer.decode()}")
        if response.headers.get_content_type() == "application/json" and b"\n{" not in answer.strip():
            return json.loads(answer or b"null")
        return answer

    def containers(self, label: str) -> list[dict[str, Any]]:
        """All that have a label, running or not."""
        filters = quote(json.dumps({"label": [label]}))
        found: list[dict[str, Any]] = self.ask("GET", f"/containers/json?all=true&filters={filters}")
        return found

    def inspect(self, container: str) -> dict[str, Any]:
        """All that the engine knows of one."""
        found: dict[str, Any] = self.ask("GET", f"/containers/{container}/json")
        return found

    def kill(self, container: str) -> None:
        """With KILL."""
        self.ask("POST", f"/containers/{container}/kill")

    def remove(self, container: str) -> None:
        """By force."""
        self.ask("DELETE", f"/containers/{container}?force=true")

    def answers(self) -> bool:
        """Whether the engine is there."""
        try:
            return bool(self.ask("GET", "/_ping"))
        except OSError:
            return False


class Wire:
    """A socket that leads to an engine's, until it is cut."""

    def __init__(self, target: str, path: Path) -> None:
        self.address = f"unix://{path}"
        self._target = target.removeprefix("unix://")
        self._path = path
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self.mend()

    def mend(self) -> None:
        """From now on it leads there again."""
        self._listener = listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self._path))
        listener.listen(64)
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def cut(self) -> None:
        """All that is open ends without a word, and nobody listens any more."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        self._path.unlink(missing_ok=True)
        self.drop()

    def drop(self) -> None:
        """All that is open ends without a word; new connections are taken."""
        with self._lock:
            ends, self._open = self._open, set()
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                here, _ = listener.accept()
            except OSError:
                return
            there = socket.socket(socket.AF_UNIX)
            try:
                there.connect(self._target)
            except OSError:
                here.close()
                continue
            with self._lock:
                self._open |= {here, there}
            for source, sink in ((here, there), (there, here)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
        with self._lock:
            done = not {source, sink} & self._open
        if done:
            source.close()


class PrivateEngine:
    """A dockerd of the test's own, which may be restarted: its network namespace keeps it from the others."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.address = f"unix://{folder}/docker.sock"
        self.client = EngineClient(self.address)
        self._holder = subprocess.Popen(
            ["unshare", "--net", "--mount", "sh", "-c", "ip link set lo up && echo up && exec sleep 100000"],
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"up\n"
        self._daemon: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start dockerd, and wait until it answers."""
        folder = self._folder
        with (folder / "dockerd.log").open("ab") as log:
            self._daemon = subprocess.Popen(
                [
                    *("nsenter", "--target", str(self._holder.pid), "--net", "--mount", "dockerd"),
                    *("--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec"),
                    *("--pidfile", f"{folder}/pid", "--host", self.address),
                ],
                stdout=log,
                stderr=log,
            )
        until(self.client.answers, f"dockerd answers: {(folder / 'dockerd.log').read_text()[-2000:]}", 30)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it; it ends its containers unless it is killed."""
        assert self._daemon is not None
        self._daemon.send_signal(number)
        self._daemon.wait(30)
        # containerd dies with it, but may stay as a zombie, which the next one would take for the living.
        for left in ("pid", "exec/containerd/containerd.pid"):
            (self._folder / left).unlink(missing_ok=True)

    def inside(self, body: Callable[[], None]) -> None:
        """Run `body`, and whatever it starts, in the engine's network namespace."""
        failure: list[BaseException] = []

        def enter_and_run() -> None:
            try:
                libc = ctypes.CDLL(None, use_errno=True)
                with Path(f"/proc/{self._holder.pid}/ns/net").open() as namespace:
                    if libc.setns(namespace.fileno(), CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), "setns")
                body()
            except BaseException as error:
                failure.append(error)

        # A namespace is a thread's own; its sockets and child processes have it too.
        thread = threading.Thread(target=enter_and_run)
        thread.start()
        thread.join()
        if failure:
            raise failure[0]

    def close(self) -> None:
        """End everything, and remove its folder."""
        if self._daemon is not None and self._daemon.poll() is None:
            for container in self.client.ask("GET", "/containers/json?all=true"):
                self.client.remove(container["Id"])
            self.stop()
        for process in psutil.process_iter(["cmdline"]):
            if any(str(self._folder) in word for word in process.info["cmdline"] or ()):
                for part in (*process.children(recursive=True), process):
                    with suppress(psutil.NoSuchProcess):
                        part.kill()
        self._holder.kill()
        self._holder.wait()
        if self._holder.stdout is not None:
            self._holder.stdout.close()
        shutil.rmtree(self._folder, ignore_errors=True)


@contextmanager
def private_engine() -> Iterator[PrivateEngine]:
    """A started one. Needs root, and dockerd."""
    engine = PrivateEngine(Path(tempfile.mkdtemp(prefix="llama-smart-proxy-engine-")))
    try:
        engine.start()
        yield engine
    finally:
        engine.close()


def default_address() -> str:
    """Of the engine that tests use."""
    return os.environ.get("DOCKER_HOST", DEFAULT)
