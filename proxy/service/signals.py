"""What signals do to a gateway: TERM, INT, QUIT and HUP drain it; a second one but HUP ends the drain.

USR1 and USR2, which other daemons rotate their logs for, do nothing: by default they end a process at once.

Not by the loop's own handlers: they end before the process, which a second TERM would then kill.
"""

import asyncio
import signal

HANGUP = getattr(signal, "SIGHUP", None)  # not on Windows, like the others that are looked up
_NUMBERS = [
    getattr(signal, f"SIG{name}") for name in ("TERM", "INT", "QUIT", "HUP") if hasattr(signal, f"SIG{name}")
]
_MEANINGLESS = [getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name)]


class Signals:
    """Handles them from now on, for the running loop. `stop` is set by the first, `hurry` by a later one."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.hurry = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        for number in _NUMBERS:
            # Under nohup a terminal may close.
            if number != HANGUP or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._came)
        for number in _MEANINGLESS:
            signal.signal(number, lambda *_: None)  # model servers would inherit SIG_IGN

    def ignore(self) -> None:
        """All is done, and the interpreter needs a moment to end."""
        for number in _NUMBERS:
            signal.signal(number, signal.SIG_IGN)

    def _came(self, number: int, _frame: object) -> None:
        if self._loop.is_closed():
            return
        if not self.stop.is_set():
            self._loop.call_soon_threadsafe(self.stop.set)
        elif number != HANGUP:  # a terminal that closes, and systemd, send it beside another signal
            self._loop.call_soon_threadsafe(self.hurry.set)
