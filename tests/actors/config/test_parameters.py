"""What a model's `request` may hold, and what is told of anything else."""

from typing import Any

import pytest

from actors.config.parameters import deep_merged, faults_of, is_empty, merged
from actors.config.schema import RequestSettings

GOOD: dict[str, Any] = {
    "max_tokens": 100,
    "temperature": 0,
    "top_p": 1,
    "stop": "END",
    "reasoning_effort": "none",
    "chat_template_kwargs": {"enable_thinking": False},
    "logit_bias": [[5, False]],
    "dry_multiplier": 0.8,
    "guided_json": {"type": "object"},
}


def told(**sections: Any) -> list[str]:
    """What is told of settings, each with its place."""
    faults = faults_of(RequestSettings(**sections), ("request",))
    return [f"{'.'.join(map(str, fault.path))}: {fault.message}" for fault in faults]


def test_what_it_may_hold() -> None:
    assert told(default=GOOD, set=GOOD, strip=[*GOOD, "chat_template_kwargs.enable_thinking"]) == []
    assert is_empty(RequestSettings())
    assert not is_empty(RequestSettings(strip=["seed"]))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("temperature", "hot", "expected a number, 0 or more, got 'hot'"),
        ("temperature", -1, "expected a number, 0 or more, got -1"),
        ("top_p", 2, "expected a number from 0 to 1, got 2"),
        ("max_tokens", 1.5, "expected a whole number, -1 or more, got 1.5"),
        ("reasoning_effort", "hihg", "got 'hihg'; did you mean 'high'?"),
        ("chat_template_kwargs", "x", "expected a mapping, got 'x'"),
        ("stop", 3, "expected text or a list, got 3"),
        ("max_completion_tokens", 5, "'max_completion_tokens' cannot be set here; use max_tokens"),
        ("num_ctx", 5, "use the model's ctx_size"),
        ("think", True, "use reasoning_effort"),
        ("messages", [], "'messages' is a part of the request's content"),
        ("stream", True, "'stream' is a part of the request's content or of its answer's form"),
        ("seed", None, "has no value; a parameter is taken out by its name in strip"),
    ],
)
def test_what_it_may_not_hold(name: str, value: object, message: str) -> None:
    for section in ("default", "set"):
        (line,) = told(**{section: {name: value}})
        assert line.startswith(f"request.{section}.{name}: ")
        assert message in line


def test_names_that_cannot_be_taken_out() -> None:
    assert told(strip=["model"])[0].startswith("request.strip.0: 'model' is a part of")
    assert told(strip=["a..b"]) == ["request.strip.0: expected a name, or dotted names, got 'a..b'"]


def test_mappings_are_merged_and_other_values_replaced() -> None:
    below = {"a": {"x": 1, "y": {"z": 2}}, "b": [1], "c": 3}
    above = {"a": {"y": {"w": 4}}, "b": [2], "c": {"d": 5}}
    assert deep_merged(below, above) == {"a": {"x": 1, "y": {"z": 2, "w": 4}}, "b": [2], "c": {"d": 5}}
    assert below["a"] == {"x": 1, "y": {"z": 2}}


def test_a_presets_settings_are_merged_over_its_models() -> None:
    below = RequestSettings(default={"seed": 1, "top_k": 2}, set={"a": {"x": 1}}, strip=["stop", "n"])
    above = RequestSettings(default={"seed": 3}, set={"a": {"y": 2}}, strip=["n", "grammar"])
    assert merged(below, above) == RequestSettings(
        default={"seed": 3, "top_k": 2}, set={"a": {"x": 1, "y": 2}}, strip=["stop", "n", "grammar"]
    )
