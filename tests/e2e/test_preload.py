"""Models that are loaded after the start, before anybody asks for them."""

from typing import Any

from tests.conftest import Start
from tests.e2e.test_failures import stand_in
from tests.gateway import Gateway, until


def settled(gateway: Gateway, name: str) -> dict[str, Any]:
    """The line in the log about the end of a model's preload."""
    events = ("model preloaded", "model not preloaded")
    line: dict[str, Any] = until(
        lambda: next(
            (one for one in list(gateway.log) if one["event"] in events and one["model"] == name), None
        ),
        f"preload of {name}",
        20,
    )
    return line


def test_one_after_the_other_by_priority_whatever_fails(start: Start) -> None:
    models = {
        "low": {**stand_in(), "preload": True, "priority": -1},
        "other": stand_in(),
        "missing": {"path": "/nowhere/model.gguf", "preload": True, "priority": 5},
        "first": {**stand_in(), "preload": True},
        "second": {**stand_in(), "preload": True},
    }
    gateway = start(models, server_pool={"size": 4})
    assert settled(gateway, "low")["event"] == "model preloaded"
    told = [one for one in list(gateway.log) if one["event"].endswith("preloaded")]
    assert [one["model"] for one in told] == ["missing", "first", "second", "low"]
    assert "/nowhere/model.gguf" in told[0]["reason"]
    started = [one["model"] for one in list(gateway.log) if one["event"] == "model starts"]
    assert [name for name in started if name != "missing"] == ["first", "second", "low"]
    states = {name: model["state"] for name, model in gateway.health()["models"].items()}
    assert states == {
        "low": "ready",
        "other": "stopped",
        "missing": "failed",
        "first": "ready",
        "second": "ready",
    }


def test_none_takes_the_room_of_another(start: Start) -> None:
    models = {name: {**stand_in(), "preload": True} for name in ("a", "b")}
    gateway = start(models, server_pool={"size": 1})
    assert settled(gateway, "a")["event"] == "model preloaded"
    line = settled(gateway, "b")
    assert (line["event"], line["reason"]) == ("model not preloaded", "it has no room beside 'a'")
    assert gateway.model("a")["state"] == "ready"
    assert gateway.chat("b").status_code == 200


def test_a_gateway_that_stops_meanwhile(start: Start) -> None:
    gateway = start({"slow": {**stand_in("hang-at-start"), "preload": True}})
    gateway.wait_for("model starts", model="slow")
    assert gateway.stop() == 0
