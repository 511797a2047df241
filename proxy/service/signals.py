"""Handles signals: TERM, INT and QUIT start the drain, a second one ends it; HUP reloads the configuration.

HUP also comes when the terminal closes on which the gateway was started: then it starts the drain.

USR1 and USR2, on which other daemons rotate logs, have no effect; by default they would end the process.

The event loop's own handlers are not used, because they end before the process, so that a second TERM would
kill it.
"""

import asyncio
import os
import signal

HANGUP = getattr(signal, "SIGHUP", None)  # missing on Windows, like the others that are looked up by name
_NUMBERS = [
    getattr(signal, f"SIG{name}") for name in ("TERM", "INT", "QUIT", "HUP") if hasattr(signal, f"SIG{name}")
]
_MEANINGLESS = [getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name)]


class Signals:
    """Handles signals for the running event loop. The first one sets `stop`, a later one `hurry`.

    HUP sets `reload`. `drain_timeout`: seconds for the drain, if they are not those of the configuration.
    """

    def __init__(self) -> None:
        self.reload = asyncio.Event()
        self.drain_timeout: float | None = None
        self._had_terminal = _has_terminal()
        self.stop = asyncio.Event()
        self.hurry = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        for number in _NUMBERS:
            # Under nohup the terminal may close.
            if number != HANGUP or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._came)
        for number in _MEANINGLESS:
            signal.signal(number, lambda *_: None)  # a handler, because model servers would inherit SIG_IGN

    def drain(self, timeout: float) -> None:
        """Begin the drain as a first signal does, with this many seconds for running requests."""
        if not self.stop.is_set():
            self.drain_timeout = timeout
            self.stop.set()

    def ignore(self) -> None:
        """Ignore further signals while the interpreter ends."""
        for number in _NUMBERS:
            signal.signal(number, signal.SIG_IGN)

    def _came(self, number: int, _frame: object) -> None:
        if self._loop.is_closed():
            return
        if number == HANGUP and not (self._had_terminal and not _has_terminal()):
            self._loop.call_soon_threadsafe(self.reload.set)
        elif not self.stop.is_set():
            self._loop.call_soon_threadsafe(self.stop.set)
        elif number != HANGUP:  # a closing terminal, and systemd, send it together with another signal
            self._loop.call_soon_threadsafe(self.hurry.set)


def _has_terminal() -> bool:
    """Whether the process has a controlling terminal that is still open."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | getattr(os, "O_NOCTTY", 0)))
    except OSError:
        return False
    return True
