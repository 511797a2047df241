"""Model servers that hang or flood their log, clients that read slowly, gateways that want the same ports."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil

from tests.attack.ground import Bystander, Gateway, fault_model, launched, watched
from tests.gateway import until

REPLACED_WITHIN = 60.0
"""Seconds after which a server that hangs must have been replaced."""


def hang(gateway: Gateway, bystander: Bystander) -> Iterator[str]:
    """Stop a model server that is ready; it is replaced, and nobody else notices."""
    gateway.chat("do:good", stream=False)
    (server,) = [one for one in gateway.client.get("/health").json()["servers"] if one["model"] == "faulty"]
    pid = listener_of(int(server["endpoint"].rpartition(":")[2]))
    bystander.faults()
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()

    def answered() -> bool:
        try:
            return gateway.chat("do:good", stream=False).status_code == 200
        except httpx.TimeoutException:
            return False

    try:
        until(answered, "an answer", REPLACED_WITHIN)
    except AssertionError:
        yield f"not replaced within {REPLACED_WITHIN:g} s"
    if time.monotonic() - began < REPLACED_WITHIN and _exists(pid):
        yield "the stopped process is still there"
    yield from bystander.faults()


def listener_of(port: int) -> int:
    """The pid of the process that listens on a port of this machine."""
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,) and connection.pid:
            return int(connection.pid)
    raise AssertionError(f"nobody listens on {port}")


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def flood_log(folder: Path) -> Iterator[str]:
    """100 MB without a newline from a model server that starts."""
    flooding = fault_model("--flood-log", "100000000")
    models = {"steady": fault_model(), "flooding": flooding}
    with launched(folder / "flood", llama_cpp={"models": models}) as gateway, watched(gateway) as bystander:
        began = time.monotonic()
        answer = gateway.chat("do:good", model="flooding", stream=False)
        if answer.status_code != 200:
            yield f"{answer.status_code} after {time.monotonic() - began:.0f} s: {answer.text[:200]}"
        yield from bystander.faults()
        yield from gateway.crashes()


def slow_readers(gateway: Gateway) -> Iterator[str]:
    """Six megabytes to clients that read at half to four megabytes a second: each gets all of it."""
    with ThreadPoolExecutor(12) as pool:
        for fault in pool.map(lambda number: _read_slowly(gateway, 0.5 + number * 0.3), range(12)):
            if fault:
                yield fault


def _read_slowly(gateway: Gateway, megabytes: float) -> str | None:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        target = "/upstream/faulty/anything?do:megabytes"
        client.sendall(
            f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{gateway.port}\r\nConnection: close\r\n\r\n".encode()
        )
        size, began = 0, time.monotonic()
        pace = threading.Event()
        try:
            while data := client.recv(16384):
                size += len(data)
                pace.wait(max(0.0, began + size / (megabytes * 1e6) - time.monotonic()))
        except TimeoutError:
            return f"at {megabytes:.1f} MB/s it stood still after {size} bytes"
    return None if size > 6 * 2**20 else f"at {megabytes:.1f} MB/s it ended after {size} bytes"


def shared_ports(folder: Path) -> Iterator[str]:
    """Three gateways that count up from the same port, and load at once: each model answers as itself."""
    names = ("red", "green", "blue")
    with ExitStack() as stack:
        gateways = [
            stack.enter_context(launched(folder / name, llama_cpp={"models": _namesakes(name)}, ports=18_900))
            for name in names
        ]
        jobs = [
            (gateway, f"{name}-{number}")
            for gateway, name in zip(gateways, names, strict=True)
            for number in range(4)
        ]
        with ThreadPoolExecutor(len(jobs)) as pool:
            for fault in pool.map(lambda job: _answers_as(*job), jobs * 4):
                if fault:
                    yield fault


def _namesakes(name: str) -> dict[str, object]:
    return {f"{name}-{number}": fault_model("--name", f"{name}-{number}") for number in range(4)}


def _answers_as(gateway: Gateway, name: str) -> str | None:
    answer = gateway.chat("do:name", model=name, stream=False)
    if answer.status_code != 200:
        return f"{name}: {answer.status_code} {answer.text[:200]}"
    said = answer.json()["choices"][0]["message"]["content"]
    return None if said == name else f"{name} was answered by {said}"
