"""Asks a model server for its memory: llama.cpp measures it without loading any weights."""

import asyncio
import secrets
from collections import deque
from collections.abc import Mapping, Sequence

import structlog

from actors.config.masking import mask_command
from actors.messages import KEY_VARIABLE
from actors.runtime import spawn
from actors.servers.child_process import Child
from actors.servers.llama.log import FIT_IS_OVER, Breakdown, parse_breakdown

log = structlog.get_logger("model")

_SILENCING = frozenset(["--log-disable", "--log-jsonl"])
_FLAGS = ("--fit", "on", "-lv", "5", "--host", "127.0.0.1", "--port", "0")
"""Flags added at the end, where they win. Any port will do, because no requests are sent."""

_MOST_LINES = 20_000
_LONGEST = 1000
"""Most lines, and characters of each. llama.cpp writes fewer; endless output must not fill memory."""


async def dry_run(
    argv: Sequence[str], *, environment: Mapping[str, str], timeout: float = 20.0
) -> dict[str, Breakdown] | None:
    """Return the bytes by device of the server that `argv` would start; None, with a log line, on failure.

    The server is started with its fit step on, which first measures the unchanged settings, and is killed
    once it has printed the table. The result is the memory that `--fit off` would take, with two exceptions:
    on several GPUs, all but the first get up to 256 MiB of compute too much; without a GPU, weights repacked
    for the CPU are counted only in that form. `--split-mode tensor` has no fit step.

    Verified with llama-server b11434 and the embedded b11549 on a machine without GPUs: flags of placement,
    draft, projector, and that no weights are in memory at the kill. Rows of GPUs were only verified against
    published logs and llama.cpp's source.
    """
    lines: deque[str] = deque(maxlen=_MOST_LINES)
    reported = asyncio.Event()

    def on_line(line: str) -> None:
        if not reported.is_set():
            lines.append(line[:_LONGEST])
            if FIT_IS_OVER.search(line):
                reported.set()

    command = [*(argument for argument in argv if argument not in _SILENCING), *_FLAGS]
    try:
        key = {KEY_VARIABLE: secrets.token_urlsafe(32)}
        child = await Child.start(command, environment={**environment, **key}, on_line=on_line)
    except OSError as error:
        log.warning(
            "dry run failed",
            command=mask_command(command),
            reason=f"cannot be executed: {error.strerror}",
        )
        return None
    reader = spawn(child.read_output(), name="dry run")
    reader.add_done_callback(lambda _: reported.set())
    reason = "it told no sizes"
    try:
        async with asyncio.timeout(timeout):
            await reported.wait()
    except TimeoutError:
        reason = f"it told no sizes in {timeout:g} s"
    finally:
        await child.stop(0)
        reader.cancel()
    breakdown = parse_breakdown(lines)
    if breakdown is None:
        log.warning("dry run failed", command=mask_command(command), reason=reason, log_tail=list(lines)[-3:])
    return breakdown
