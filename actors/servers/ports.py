"""Ports for model servers."""

import socket

from actors.errors import Failure
from actors.servers import StartError

PORT_TRIES = 3
"""Most starts of a server: another process can take a port between the check and the server's bind."""


class PortBook:
    """Reserves free ports, upwards from `start`; 0 leaves the choice to the system.

    Other gateways skip a reserved port, because this one holds the UDP port of the same number, which model
    servers do not use. Unlike a lock file, this needs no common folder and ends with the process.
    """

    def __init__(self, host: str, start: int) -> None:
        self._host = host
        self._start = start
        self._taken: dict[int, int] = {}

    def take(self) -> int:
        """Reserve a free port until `give_back`. Raises `StartError` when there is none."""
        candidates = range(self._start, 65536) if self._start else [0] * 20
        for port in candidates:
            if port in self._taken:
                continue
            family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((self._host, port))
                except OSError:
                    continue
                found = int(probe.getsockname()[1])
                if found not in self._taken and (lock := self._lock(family, found)) is not None:
                    self._taken[found] = lock
                    return found
        raise StartError(Failure(message=f"no free port on {self._host} from {self._start} upwards"))

    def give_back(self, port: int) -> None:
        """Release the port of a stopped server."""
        if (lock := self._taken.pop(port, None)) is not None:
            socket.close(lock)

    def _lock(self, family: int, port: int) -> int | None:
        """Bind the UDP port and return its descriptor; None if another gateway has it."""
        with socket.socket(family, socket.SOCK_DGRAM) as lock:
            try:
                lock.bind((self._host, port))
            except OSError:
                return None
            return lock.detach()
