"""docs/logs.md has every event of the log, with its levels and fields, and nothing else."""

import re

import pytest

from tests.log_calls import CHECKOUT, PAGE, Event, documented, written

FIELD_ROW = re.compile(r"^\| `([^`]+)` \| ([^|]+) \|$", re.MULTILINE)


def test_each_event_has_its_row() -> None:
    known, there_are = documented(), written()
    rows = [
        f"| `{name}` | {' | '.join(event.row)} | {known.get(name, event).words} |    <- {event.place}"
        for name, event in there_are.items()
        if name not in known or known[name].row != event.row
    ]
    assert not rows, f"rows for {PAGE.relative_to(CHECKOUT)}:\n" + "\n".join(rows)
    gone = known.keys() - there_are.keys()
    assert not gone, "no source writes these events: take out their rows"


def test_each_field_is_explained() -> None:
    explained = {name for name, _ in FIELD_ROW.findall(PAGE.read_text().partition("\n## Fields\n")[2])}
    used = {field for event in written().values() for field in event.fields}
    missing, gone = sorted(used - explained), sorted(explained - used)
    assert not missing, f"add rows below ## Fields of {PAGE.name}: {', '.join(missing)}"
    assert not gone, f"no event has these fields, take out their rows: {', '.join(gone)}"


@pytest.mark.parametrize(
    ("name", "levels", "fields"),
    [
        ("model starts", {"info", "warning"}, {"model", "epoch", "place", "why", "context", "set_aside"}),
        ("server log", {"debug", "warning"}, {"line", "model", "epoch", "source"}),
        ("the embedding model fails; words only", {"warning"}, {"model", "reason"}),
        ("request", {"debug", "info", "warning"}, {"trace_id", "total_ms", "completion_tokens"}),
        ("task failed", {"critical"}, {"task"}),
        ("a log line could not be made", {"error"}, set()),
    ],
)
def test_the_sources_are_understood(name: str, levels: set[str], fields: set[str]) -> None:
    """Levels and fields that are chosen, bound or unpacked, and lines that no logger writes."""
    event: Event = written()[name]
    assert event.levels == levels
    assert event.fields >= fields
