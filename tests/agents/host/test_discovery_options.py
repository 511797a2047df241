"""The options of agents: whatever stands there, they are usable or refused by key."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.config.fields import Fields
from actors.config.file import parse_config
from actors.errors import ConfigError
from agents.host.discovery import load_agents, sources

KINDS = {name: source.load().Config for name, source in sources([]).items()}
OPTIONS = sorted({name for kind in KINDS.values() for name in kind.__struct_fields__})
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.just("${X}"),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(OPTIONS) | st.text(), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.sampled_from(sorted(KINDS)), st.dictionaries(st.sampled_from(OPTIONS), VALUES, max_size=4))
def test_any_options_are_usable_or_refused(name: str, options: dict[str, Any]) -> None:
    try:
        config = parse_config({"agents": [{name: options}]}, folder=Path("/x"), environment={"X": "5"})
    except ConfigError:
        return
    fields = Fields(Path("/x"))
    made = fields.take(config.agents[0][name], KINDS[name], ("agents", name))  # type: ignore[index]
    assert fields.faults or isinstance(made, KINDS[name])


def test_folders_of_rag_are_taken_from_the_files_folder() -> None:
    folders = {"a": "papers", "b": "/abs", "c": "~/c"}
    config = parse_config({"agents": [{"rag": {"folders": folders}}]}, folder=Path("/x"))
    (loaded,), _ = load_agents(config, Path("/x"))
    assert getattr(loaded.config, "folders") == {  # noqa: B009
        "a": "/x/papers",
        "b": "/abs",
        "c": str(Path("~/c").expanduser()),
    }


def test_lists_of_any_kind_count_as_empty_without_items() -> None:
    options = {"deny": None, "redact": None, "budget": None}
    config = parse_config({"agents": [{"guard": options}]}, folder=Path("/x"))
    assert load_agents(config)[0][0].config == KINDS["guard"]()
    wrong = parse_config({"agents": [{"guard": {"deny": ["a", 5]}}, "gaurd"]}, folder=Path("/x"))
    with pytest.raises(ConfigError) as caught:
        load_agents(wrong)
    assert str(caught.value).split("\n") == [
        "agents.guard.deny[1]: expected text, got 5; put it in quotes",
        "agents.gaurd: there is no such agent; did you mean 'guard'?",
    ]


def test_all_that_is_wrong_is_told() -> None:
    agents = [
        {"guard": {"longest": 0, "dney": ["x"]}},
        "nobody",
        {"cache": {"ttl": "x"}},
        {"rag": {"folders": [1]}},
    ]
    config = parse_config({"agents": agents, "agent_folders": ["nowhere"]}, folder=Path("/x"))
    with pytest.raises(ConfigError) as caught:
        load_agents(config, Path("/x"))
    assert [fault.path for fault in caught.value.faults] == [
        ("agent_folders",),
        ("agents", "guard", "longest"),
        ("agents", "guard", "dney"),
        ("agents", "nobody"),
        ("agents", "cache", "ttl"),
        ("agents", "rag", "folders"),
    ]
