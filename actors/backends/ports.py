"""Ports for model servers."""

import socket

from actors.backends import StartError
from actors.errors import Failure


class PortBook:
    """Hands out ports that nobody listens on, upwards from `start`; 0 leaves the choice to the system."""

    def __init__(self, host: str, start: int) -> None:
        self._host = host
        self._start = start
        self._taken: set[int] = set()

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
            if found not in self._taken:
                self._taken.add(found)
                return found
        raise StartError(Failure(message=f"no free port on {self._host} from {self._start} upwards"))

    def give_back(self, port: int) -> None:
        """The port's server is gone."""
        self._taken.discard(port)
