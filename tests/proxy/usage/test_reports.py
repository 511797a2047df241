"""Sums and pages of the ledger equal what a plain count of the same rows gives."""

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.usage.ledger_file import LedgerFile
from proxy.usage.reports import (
    GROUPS,
    Activity,
    Filter,
    Group,
    ReportError,
    activity,
    parse_groups,
    sums,
)
from proxy.usage.rows import row_of
from tests.proxy.usage.requests import request

DAY = 86_400.0

FACTS = st.fixed_dictionaries(
    {
        "key": st.sampled_from([None, "alice", "null", "bob"]),
        "model": st.sampled_from([None, "small", "large"]),
        "agent": st.sampled_from([None, None, None, "rag", ""]),
        "action": st.sampled_from([None, None, None, "POST /admin/drain"]),
        "status": st.sampled_from([200, 404, 499, 503]),
        "started": st.floats(min_value=0, max_value=3 * DAY),
        "tokens": st.dictionaries(
            st.sampled_from(["prompt_tokens", "cached_tokens", "completion_tokens"]),
            st.integers(min_value=0, max_value=1000),
        ),
    }
)


def write(path: Path, facts: Iterable[dict[str, Any]]) -> None:
    with closing(LedgerFile(path)) as file:
        file.write([row_of(number, request(**each)) for number, each in enumerate(facts, 1)], -1)


@given(
    st.lists(FACTS, max_size=12),
    st.lists(st.sampled_from(GROUPS), unique=True),
    st.sampled_from(
        [
            Filter(),
            Filter(key="alice"),
            Filter(key=""),
            Filter(model="small"),
            Filter(since=DAY, until=2 * DAY),
        ]
    ),
)
def test_sums_are_those_of_the_rows(facts: list[dict[str, Any]], by: list[Group], which: Filter) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "usage"
        write(path, facts)
        found = sums(path, tuple(by), which)
    expected: dict[tuple[object, ...], list[dict[str, Any]]] = {}
    for each in facts:
        is_wanted = (
            each["action"] is None
            and (each["agent"] is None or "agent" in by)
            and which.key in (None, each["key"] or "")
            and which.model in (None, each["model"] or "")
            and (which.since is None or which.since <= each["started"] < (which.until or 0))
        )
        if is_wanted:
            status = each["status"]
            outcome = {200: "ok", 404: "refused", 499: "client_left", 503: "failed"}[status]
            day = f"1970-01-0{int(each['started'] // DAY) + 1}"
            shown = {**each, "outcome": outcome, "day": day, "endpoint": "/v1/chat/completions"}
            expected.setdefault(tuple(shown[name] for name in by), []).append(each)
    assert {tuple(getattr(row, name) for name in by): row.requests for row in found} == {
        group: len(members) for group, members in expected.items()
    }
    for row in found:
        members = expected[tuple(getattr(row, name) for name in by)]
        assert row.errors == sum(one["status"] in (404, 503) for one in members)
        for kind in ("prompt_tokens", "cached_tokens", "completion_tokens"):
            assert getattr(row, kind) == sum(one["tokens"].get(kind, 0) for one in members)


@given(st.lists(FACTS, max_size=12), st.integers(min_value=1, max_value=5))
def test_pages_have_every_row_once(facts: list[dict[str, Any]], limit: int) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "usage"
        write(path, facts)
        found: list[Activity] = []
        while page := activity(
            path, Filter(kind=None), limit=limit, before=found[-1].number if found else None
        ):
            assert len(page) <= limit
            found += page
    assert [row.number for row in found] == list(range(len(facts), 0, -1))
    for row in found:
        asked = facts[row.number - 1]
        assert (row.key, row.model, row.agent, row.action) == tuple(
            asked[name] for name in ("key", "model", "agent", "action")
        )
        assert row.prompt_tokens == asked["tokens"].get("prompt_tokens"), "unknown is null"


def test_each_kind_of_row_is_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "usage"
    write(path, [{}, {"agent": "rag"}, {"action": "POST /admin/drain", "model": None}])
    (one,) = activity(path, Filter(), limit=9)
    (call,) = activity(path, Filter(kind="call"), limit=9)
    (action,) = activity(path, Filter(kind="action"), limit=9)
    assert (one.agent, one.action) == (None, None)
    assert call.agent == "rag"
    assert action.action == "POST /admin/drain"


def test_without_a_file_there_is_nothing(tmp_path: Path) -> None:
    assert sums(tmp_path / "usage", ("key",), Filter()) == []
    assert activity(tmp_path / "usage", Filter(), limit=1) == []
    assert list(tmp_path.iterdir()) == [], "reading makes no file"


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "usage"
    path.write_bytes(b"garbage" * 1000)
    with pytest.raises(ReportError, match=f"{path} cannot be read"):
        sums(path, (), Filter())


def test_facts_are_named_with_commas() -> None:
    assert parse_groups("day, key,day") == ("day", "key")
    assert parse_groups("") == ()
    with pytest.raises(ValueError, match="expected some of key, model"):
        parse_groups("key,moon")
