"""What is written for people: it cannot steer a terminal, and a reader that leaves causes no traceback.

Names, paths and the words of other programs may contain any character. Commands print with `say` and
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
"""The exit statuses which a shell shows for programs that SIGINT and SIGPIPE ended."""


INSTALLED = "llama-smart-proxy"
"""The command that an installation brings."""


class OutputError(Exception):
    """Standard output cannot be written; the message says why."""


def open_missing_streams() -> None:
    """Open the null device on each of the descriptors 0 to 2 that is closed.

    Otherwise the next file or socket gets that number, and receives what is printed.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def program() -> str:
    """What the user calls this program."""
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
    """Whether it is a terminal that may show colours (https://no-color.org)."""
    return os.isatty(descriptor) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def say(text: str = "") -> None:
    """Print text on standard output. Raises `OutputError`."""
    if sys.stdout is None:
        raise OutputError("standard output is closed")
    with _output_errors():
        print(printable(text, keep="\n"))


def complain(text: str) -> None:
    """Print an error on standard error, where that can be written."""
    if sys.stderr is not None:
        with suppress(OSError):
            print(f"{program()}: {printable(text, keep=chr(10))}", file=sys.stderr, flush=True)


def exit_status(work: Callable[[], int]) -> int:
    """Run a command and flush its output; return the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name may have what the locale cannot express
    try:
        try:
            status = work()
        except SystemExit as error:  # argparse's, after --help too
            status = error.code if isinstance(error.code, int) else 1
        if sys.stdout is not None:
            with _output_errors():
                sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except OutputError as error:
        # The interpreter tries again at its end what could not be written.
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
