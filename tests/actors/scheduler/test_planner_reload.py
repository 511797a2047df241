"""Playbooks of a reload: what runs with old settings ends, and nothing else."""

import pytest

from actors.errors import Failure, QueueTimeout, UnknownModel
from actors.messages import Drain, Effect, Fetched, FetchFiles, Forgotten, Look, StopServer
from actors.scheduler.lifecycle import State
from actors.scheduler.model_states import ModelSpec, Policy
from tests.actors.scheduler.test_planner import World, granted, refused, started, stopped


def reload(world: World, *models: str, changed: set[str] | None = None, slots: int = 2) -> list[Effect]:
    """Only these models, of which some have changed, are configured from now on."""
    specs = [ModelSpec(name=name, slots=slots) for name in models]
    policy = Policy(size=2, queue_size=5, patience=10)
    effects = world.planner.reconfigure(policy, specs, changed or set(), world.now)
    return [effect for effect in effects if not isinstance(effect, Drain | Look | Forgotten)]


def test_a_changed_model_finishes_its_requests_and_is_loaded_again() -> None:
    world = World()
    world.loaded("b")
    world.ask("a")
    world.ready("a")
    assert reload(world, "a", "b", changed={"a"}) == []
    assert world.status("a").state is State.DRAINING
    assert world.ask("a") == [], "it waits for the new server"
    (stop,) = world.release(2)
    assert stop == StopServer("a", 1, "its settings have changed")
    assert started(world.gone("a")) == ["a"]
    assert granted(world.ready("a", epoch=2)) == [3]
    assert world.status("b").state is State.READY


def test_an_idle_model_that_has_changed_is_loaded_again_at_once() -> None:
    world = World()
    world.loaded("a")
    assert stopped(reload(world, "a", changed={"a"})) == ["a"]
    assert started(world.gone("a")) == ["a"]
    world.ready("a", epoch=2)
    assert world.status("a").state is State.READY


@pytest.mark.parametrize("is_loading", [False, True])
def test_a_model_that_changes_while_it_is_loaded_begins_again(is_loading: bool) -> None:
    world = World()
    world.fetches_slowly = not is_loading
    world.ask("a")
    effects = reload(world, "a", changed={"a"})
    assert stopped(effects) == ["a"]
    effects += world.gone("a") if is_loading else []
    assert FetchFiles("a", 2) in effects or started(effects) == ["a"]
    world.send(Fetched(model="a", epoch=2))
    assert granted(world.ready("a", epoch=2)) == [1]


def test_a_changed_model_is_not_refused_for_what_failed_before() -> None:
    world = World()
    world.ask("a")
    world.gone("a", failure=Failure(message="no such flag"))
    assert world.status("a").state is State.FAILED
    assert reload(world, "a", changed={"a"}) == []
    assert (world.status("a").state, world.status("a").error, world.status("a").failures) == (
        State.STOPPED,
        None,
        0,
    )
    assert started(world.ask("a")) == ["a"]


def test_what_needs_no_new_server_changes_at_once() -> None:
    world = World()
    world.loaded("a")
    assert granted(world.ask("a")) == [2]
    specs = [ModelSpec(name="a", aliases=("other",), slots=3, priority=2)]
    world.planner.reconfigure(Policy(size=1, idle_timeout=7), specs, set(), world.now)
    assert (world.planner.resolve("other"), world.planner.resolve("first")) == ("a", None)
    assert granted([*world.ask("other"), *world.ask("a")]) == [3, 4]
    for ticket in (2, 3, 4):
        world.release(ticket)
    assert world.tick(6) == []
    assert stopped(world.tick(1)) == ["a"]


def test_a_model_that_is_no_longer_configured_finishes_its_requests() -> None:
    world = World()
    world.ask("b")
    world.ready("b")
    world.ask("b")
    effects = reload(world, "a")
    assert refused(effects) == {2: UnknownModel}
    assert refused(world.ask("b")) == {3: UnknownModel}
    assert world.status("b").busy == 1
    assert stopped(world.release(1)) == ["b"]
    assert world.gone("b") == [Forgotten("b")]
    assert [status.name for status in world.planner.describe(world.now)] == ["a"]


def test_a_model_that_is_configured_again_before_it_has_gone_stays() -> None:
    world = World()
    world.ask("b")
    world.ready("b")
    reload(world, "a")
    assert reload(world, "a", "b") == []
    assert world.ask("b") == [], "its old server goes all the same"
    assert stopped(world.release(1)) == ["b"]
    assert started(world.gone("b")) == ["b"]
    assert granted(world.ready("b", epoch=2)) == [2]


def test_draining_for_new_settings_outlasts_the_model_that_it_made_room_for() -> None:
    world = World(size=1)
    world.ask("a")
    world.ready("a")
    world.ask("b", wait=20)
    world.tick(11)
    assert world.status("a").state is State.DRAINING
    reload(world, "a", "b", changed={"a"})
    assert refused(world.tick(20)) == {2: QueueTimeout}
    assert world.status("a").state is State.DRAINING
    assert stopped(world.release(1)) == ["a"]
