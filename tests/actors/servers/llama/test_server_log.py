"""A model server's lines on their way into the gateway's log."""

import logging

import structlog
from structlog.testing import capture_logs

from actors.kept_lines import KeptLines
from actors.servers.llama.server_log import BURST, ServerLog


def events(lines: list[str], *, loaded: bool = False) -> list[tuple[str, str]]:
    """Level and line of what is logged, and how many were left out."""
    with capture_logs() as logged:
        server_log = ServerLog("m", 1, KeptLines(10**6))
        if loaded:
            server_log.loaded()
        for line in lines:
            server_log.take(line)
        if server_log.left_out:
            server_log.say_left_out()
    return [(entry["log_level"], str(entry.get("line", entry.get("lines")))) for entry in logged]


def test_severe_lines_are_warnings_and_what_is_ordinary_depends() -> None:
    lines = ["0.1.2 W srv  init: odd", "error: no", "0.1.2 I all is well"]
    assert [level for level, _ in events(lines)] == ["warning", "warning", "debug"]
    assert [level for level, _ in events(lines, loaded=True)] == ["debug", "warning", "debug"]


def test_what_the_gateway_itself_brings_about_warns_nobody() -> None:
    lines = ["0.00.068.530 W srv    operator(): unauthorized: Invalid API Key", "0.1 W srv odd"]
    assert [level for level, _ in events(lines)] == ["debug", "warning"]


async def test_of_a_flood_the_rest_is_counted_and_errors_are_still_told() -> None:
    lines = events([*(f"line {number}" for number in range(BURST + 500)), "error: at last"])
    assert lines[BURST - 1] == ("debug", f"line {BURST - 1}")
    assert lines[-2] == ("warning", "error: at last")
    level, left_out = lines[-1]
    assert level == "warning"
    assert 400 < int(left_out) <= 500


def test_every_line_is_kept_whatever_is_logged() -> None:
    kept = KeptLines(10**6)
    server_log = ServerLog("m", 1, kept)
    server_log.take("while it loads")
    server_log.loaded()
    server_log.take("while it serves")
    assert [line.text for line in kept.after(0)] == ["while it loads", "while it serves"]


def test_what_would_not_be_logged_is_not_counted() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))
    try:
        server_log = ServerLog("m", 1, KeptLines(10**6))
        server_log.loaded()
        for number in range(BURST * 2):
            server_log.take(f"line {number}")
        assert server_log.left_out == 0
    finally:
        structlog.reset_defaults()
