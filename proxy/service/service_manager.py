"""Notifies systemd: that the gateway serves, that it stops, and that its event loop runs (watchdog).

The protocol is sd_notify(3): datagrams to the socket in NOTIFY_SOCKET. Without it nothing is sent. No method
raises.
"""

import asyncio
import os
import socket
from collections.abc import MutableMapping

import structlog

from actors.runtime import spawn

log = structlog.get_logger("systemd")

RETRY = 0.1
"""Seconds until the notification of readiness is repeated if the manager's socket is full."""


class ServiceManager:
    """Removes its variables from `environment`, so that model servers cannot notify in the gateway's name."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        self._address = environment.pop("NOTIFY_SOCKET", "")
        period = environment.pop("WATCHDOG_USEC", "")
        whose = environment.pop("WATCHDOG_PID", "") or str(os.getpid())
        mine = period.isdecimal() and whose == str(os.getpid())
        self._watchdog = int(period) / 1e6 / 2 if mine else 0.0
        self._telling: asyncio.Task[None] | None = None

    def ready(self, status: str) -> None:
        """Report that the gateway serves. The watchdog is notified until `close`."""
        if self._address:
            self._telling = spawn(self._tell(status), name="service manager")

    def stopping(self, status: str, seconds: float) -> None:
        """Report the shutdown, which may take `seconds`, whatever the unit's TimeoutStopSec."""
        self._send("STOPPING=1", f"STATUS={status}", f"EXTEND_TIMEOUT_USEC={seconds * 1e6:.0f}")

    def close(self) -> None:
        """Stop all notifications."""
        if self._telling is not None:
            self._telling.cancel()

    async def _tell(self, status: str) -> None:
        """Notify the watchdog from the event loop, so that a hung loop is noticed."""
        while True:
            if self._send("READY=1", f"STATUS={status}"):
                break
            await asyncio.sleep(RETRY)
        while self._watchdog > 0:
            self._send("WATCHDOG=1")
            await asyncio.sleep(self._watchdog)

    def _send(self, *lines: str) -> bool:
        """Send a message; return false if it should be tried again."""
        if not self._address:
            return True
        # An abstract address is written with an @.
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto("\n".join(lines).encode(), address)
        except BlockingIOError:
            return False
        except (OSError, ValueError) as error:
            log.debug("notification to the service manager failed", told=lines[0], reason=str(error))
        return True
