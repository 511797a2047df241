"""Output for people: it cannot control a terminal, and a closed pipe causes no traceback.

Names, paths and other programs' messages may contain any character, so commands print with `say` and
`complain`, and run under `exit_status`.
"""

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

INTERRUPTED = 130
READER_LEFT = 141
"""The exit statuses that a shell shows for programs ended by SIGINT and SIGPIPE."""


INSTALLED = "llama-smart-proxy"
"""The name of the installed command."""


class OutputError(Exception):
    """Standard output cannot be written. The message says why."""


def open_missing_streams() -> None:
    """Open the null device on each of the descriptors 0 to 2 that is closed.

    Otherwise the next file or socket would get that number, and receive printed output.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def program() -> str:
    """Return the name under which the user called this program."""
    return INSTALLED if Path(sys.argv[0]).name == INSTALLED else "run.py"


def printable(text: str, keep: str = "") -> str:
    """Escape the characters that have no glyph (controls, bidi marks, surrogates), except those in `keep`."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in keep else char.encode("unicode_escape").decode()
        for char in text
    )


def wants_colour(descriptor: int) -> bool:
    """Whether the stream is a terminal that may show colours (https://no-color.org)."""
    return os.isatty(descriptor) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def say(text: str = "") -> None:
    """Print text on standard output. Raises `OutputError`."""
    if sys.stdout is None:
        raise OutputError("standard output is closed")
    with _output_errors():
        print(printable(text, keep="\n"))


def complain(text: str) -> None:
    """Print an error on standard error, if that can be written."""
    if sys.stderr is not None:
        with suppress(OSError):
            print(f"{program()}: {printable(text, keep=chr(10))}", file=sys.stderr, flush=True)


def exit_status(work: Callable[[], int]) -> int:
    """Run a command and flush its output; return the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # the locale may lack a name's characters
    try:
        try:
            status = work()
        except SystemExit as error:  # raised by argparse, also after --help
            status = error.code if isinstance(error.code, int) else 1
        if sys.stdout is not None:
            with _output_errors():
                sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except OutputError as error:
        # At its end the interpreter would try again to write the rest.
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if isinstance(error.__cause__, BrokenPipeError):
            return READER_LEFT
        complain(str(error))
        return 1
    return status


@contextmanager
def _output_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"standard output cannot be written: {error.strerror}") from error
