"""Playbooks of the planner: events in, effects out. `World` plays the model actors and the door."""

import math

import pytest

from actors.errors import (
    Failure,
    Forbidden,
    LoadFailed,
    NeverFits,
    NotLoaded,
    QueueFull,
    QueueTimeout,
    Rejection,
    ShuttingDown,
    UnknownModel,
)
from actors.messages import (
    Acquire,
    BecameReady,
    Cancel,
    Drain,
    Effect,
    Event,
    Exited,
    Fetched,
    FetchFiles,
    Figures,
    Grant,
    Hung,
    Look,
    Measured,
    Pin,
    RanOut,
    Reject,
    Released,
    Reset,
    ServerAddress,
    Shutdown,
    ShutDownComplete,
    StartServer,
    StopServer,
    Tick,
    Unload,
    Unusable,
)
from actors.scheduler.lifecycle import State
from actors.scheduler.model_states import ModelSpec, ModelStatus, Policy
from actors.scheduler.planner import SUSPICION, Planner

WHERE = ServerAddress("127.0.0.1", 9)


class World:
    """A planner with models a to d (a has two slots and the alias `first`), and a clock."""

    def __init__(self, *, size: int = 2, queue_size: int = 5, idle_timeout: float = 0.0) -> None:
        policy = Policy(
            size=size,
            queue_size=queue_size,
            min_residency=2,
            patience=10,
            idle_timeout=idle_timeout,
            retry_delay=8,
            retry_delay_max=30,
        )
        specs = [ModelSpec(name="a", aliases=("first",), slots=2), *(ModelSpec(name=name) for name in "bcd")]
        self.planner = Planner(policy, specs)
        self.now = 0.0
        self.tickets = 0
        self.fetches_slowly = False
        self.notices: list[Effect] = []

    def send(self, event: Event, after: float = 0.0) -> list[Effect]:
        """The effects; files are there as soon as they are wanted, unless `fetches_slowly`."""
        self.now += after
        effects = self.planner.handle(event, self.now)
        if not self.fetches_slowly:
            for fetch in [effect for effect in effects if isinstance(effect, FetchFiles)]:
                effects.remove(fetch)
                effects += self.planner.handle(Fetched(model=fetch.model, epoch=fetch.epoch), self.now)
        self.notices += [effect for effect in effects if isinstance(effect, Drain | Look | Measured | RanOut)]
        return [effect for effect in effects if not isinstance(effect, Drain | Look | Measured | RanOut)]

    def ask(
        self,
        model: str,
        *,
        slot: bool = True,
        load: bool = True,
        wait: float = 1000,
        keep_alive: float | None = None,
    ) -> list[Effect]:
        self.tickets += 1
        return self.send(
            Acquire(
                ticket=self.tickets,
                model=model,
                deadline=self.now + wait,
                slot=slot,
                load=load,
                keep_alive=keep_alive,
            )
        )

    def ready(
        self, model: str, epoch: int = 1, after: float = 0.0, figures: Figures | None = None
    ) -> list[Effect]:
        notices = figures or Figures()
        return self.send(BecameReady(model=model, epoch=epoch, endpoint=WHERE, figures=notices), after)

    def gone(self, model: str, epoch: int = 1, failure: Failure | None = None) -> list[Effect]:
        return self.send(Exited(model=model, epoch=epoch, failure=failure))

    def release(
        self, ticket: int, after: float = 0.0, *, served: bool = True, broken: bool = False
    ) -> list[Effect]:
        return self.send(Released(ticket=ticket, served=served, broken=broken), after)

    def tick(self, after: float) -> list[Effect]:
        return self.send(Tick(), after)

    def loaded(self, *models: str) -> None:
        """Load models, each with one request that is over."""
        for model in models:
            self.ask(model)
            self.ready(model)
            self.release(self.tickets)
        self.now += 2

    def status(self, model: str) -> ModelStatus:
        return next(status for status in self.planner.describe(self.now) if status.name == model)


def granted(effects: list[Effect]) -> list[int]:
    return [effect.ticket for effect in effects if isinstance(effect, Grant)]


def started(effects: list[Effect]) -> list[str]:
    return [effect.model for effect in effects if isinstance(effect, StartServer)]


def stopped(effects: list[Effect]) -> list[str]:
    return [effect.model for effect in effects if isinstance(effect, StopServer)]


def refused(effects: list[Effect]) -> dict[int, type[Rejection]]:
    return {effect.ticket: type(effect.reason) for effect in effects if isinstance(effect, Reject)}


def test_the_first_request_loads_the_model_and_all_get_it() -> None:
    world = World()
    assert started(world.ask("a")) == ["a"]
    assert world.ask("first") == []
    assert world.ask("a") == []
    assert granted(world.ready("a", after=3)) == [1, 2], "two slots, oldest first"
    assert granted(world.release(1)) == [3]
    assert world.status("a").busy == 2


def test_a_model_that_is_known_to_be_unusable_has_failed_and_is_tried_when_it_is_asked_for() -> None:
    world = World()
    failure = Failure(message="no such file", retryable=False)
    for model in ("a", "nobody"):
        assert world.send(Unusable(model=model, failure=failure)) == []
    assert (world.status("a").state, world.status("a").error) == (State.FAILED, "no such file")
    assert started(world.ask("a")) == ["a"]
    world.send(Unusable(model="a", failure=failure))
    assert granted(world.ready("a")) == [1], "one that is under way goes on"


def test_a_grant_tells_what_was_waited_for() -> None:
    world = World()
    world.ask("a")
    (grant,) = world.ready("a", after=3)
    assert isinstance(grant, Grant)
    assert (grant.model, grant.epoch, grant.endpoint) == ("a", 1, WHERE)
    assert (grant.queued, grant.loaded) == (0, 3)
    (grant,) = world.ask("first")
    assert isinstance(grant, Grant)
    assert (grant.model, grant.queued, grant.loaded) == ("a", 0, 0)


def test_work_without_a_slot_does_not_wait_for_one() -> None:
    world = World()
    world.loaded("b")
    assert granted(world.ask("b")) == [2]
    assert world.ask("b") == []
    assert granted(world.ask("b", slot=False)) == [4]
    assert world.status("b").busy == 1


@pytest.mark.parametrize(
    ("model", "load", "reason"),
    [("zebra", True, UnknownModel), ("b", False, NotLoaded), ("", True, UnknownModel)],
)
def test_refused_at_once(model: str, load: bool, reason: type[Rejection]) -> None:
    assert refused(World().ask(model, load=load)) == {1: reason}


def test_a_full_queue_refuses_but_not_what_needs_no_queue() -> None:
    world = World(queue_size=2)
    world.loaded("a", "b")
    for _ in range(3):
        world.ask("b")
    (effect,) = world.ask("b")
    assert isinstance(effect, Reject)
    assert isinstance(effect.reason, QueueFull)
    assert effect.reason.retry_after is not None
    assert effect.reason.retry_after >= 1
    assert granted(world.ask("a")) == [7]


def test_a_deadline_ends_the_wait() -> None:
    world = World()
    world.loaded("b")
    world.ask("b")
    world.ask("b", wait=4)
    assert world.planner.next_wake(world.now) == world.now + 4
    assert refused(world.tick(after=4)) == {3: QueueTimeout}


@pytest.mark.parametrize("ticket", [2, 3, 99])
def test_cancel_takes_out_or_gives_back_and_may_come_twice(ticket: int) -> None:
    world = World()
    world.loaded("b")
    world.ask("b")
    world.ask("b")
    effects = world.send(Cancel(ticket=ticket))
    assert granted(effects) == ([3] if ticket == 2 else [])
    assert world.send(Cancel(ticket=ticket)) == []
    assert world.status("b").busy == 1


def test_a_lease_of_a_dead_server_frees_nothing_of_the_next() -> None:
    world = World()
    world.loaded("b")
    world.ask("b")
    world.gone("b", failure=Failure(message="killed"))
    assert started(world.ask("b")) == ["b"]
    world.ready("b", epoch=2)
    assert world.status("b").busy == 1
    world.release(2, served=False)
    assert world.status("b").busy == 1


def test_the_least_recently_used_idle_model_makes_room() -> None:
    world = World()
    world.loaded("a", "b")
    world.ask("a")
    assert stopped(world.ask("c")) == ["b"], "a was used later, and is leased"
    assert started(world.gone("b")) == ["c"]


def test_one_victim_for_each_wanted_model() -> None:
    world = World()
    world.loaded("a", "b")
    assert stopped(world.ask("c")) == ["a"]
    assert stopped(world.ask("c")) == []
    assert stopped(world.ask("d")) == ["b"]
    assert started(world.gone("a")) == ["c"]
    assert started(world.gone("b")) == ["d"]


def test_a_just_loaded_model_stays_for_its_residency() -> None:
    world = World(size=1)
    world.ask("a")
    world.ready("a")
    world.release(1)
    assert world.ask("b") == []
    assert world.planner.next_wake(world.now) == 2
    assert stopped(world.tick(after=2)) == ["a"]


def test_a_busy_model_is_fenced_after_patience_and_yields_when_drained() -> None:
    world = World(size=1)
    world.loaded("a")
    world.ask("a")
    assert world.ask("b") == []
    assert world.tick(after=10) == []
    assert world.status("a").state is State.DRAINING
    assert world.ask("a") == [], "no new leases behind the fence"
    assert stopped(world.release(2)) == ["a"]
    assert started(world.gone("a")) == ["b"]


def test_the_fence_opens_when_nobody_waits_behind_it() -> None:
    world = World(size=1)
    world.loaded("a")
    world.ask("a")
    world.ask("b")
    world.tick(after=10)
    world.ask("a")
    assert granted(world.send(Cancel(ticket=3))) == [4]
    assert world.status("a").state is State.READY


def test_a_failed_start_is_told_to_its_waiters_and_to_nobody_else() -> None:
    world = World()
    for model in ("a", "b", "a"):
        world.ask(model)
    effects = world.gone("a", failure=Failure(message="bad magic", log_tail=("line",)))
    assert refused(effects) == {1: LoadFailed, 3: LoadFailed}
    (first, _) = effects
    assert isinstance(first, Reject)
    assert "bad magic" in first.reason.message
    assert first.reason.retry_after == 8
    assert world.status("b").waiting == 1


@pytest.mark.parametrize(("failures", "delay"), [(1, 8), (2, 16), (3, 30), (9, 30)])
def test_backoff_doubles_to_its_limit(failures: int, delay: float) -> None:
    world = World()
    for epoch in range(1, failures + 1):
        world.now += 100
        assert started(world.ask("a")) == ["a"]
        world.gone("a", epoch, Failure(message="no"))
    assert world.status("a").retry_in == delay


def test_a_request_waits_for_the_end_of_a_short_backoff_only() -> None:
    world = World()
    world.ask("a")
    world.gone("a", failure=Failure(message="no"))
    assert refused(world.ask("a")) == {2: LoadFailed}
    world.now += 4
    assert world.ask("a") == []
    assert world.planner.next_wake(world.now) == 8
    assert started(world.tick(after=4)) == ["a"]


def test_what_only_the_operator_can_mend_is_tried_with_each_request() -> None:
    world = World()
    for epoch in (1, 2, 3):
        assert started(world.ask("a")) == ["a"]
        (effect,) = world.gone("a", epoch, Failure(message="no such file", retryable=False))
        assert isinstance(effect, Reject)
        assert effect.reason.retry_after is None


def test_a_server_that_dies_at_work_restarts_at_once_and_keeps_its_queue() -> None:
    world = World()
    world.loaded("b")
    world.ask("b")
    world.ask("b")
    assert started(world.gone("b", failure=Failure(message="killed"))) == ["b"]
    assert granted(world.ready("b", epoch=2)) == [3]
    # Dying again before it has served anything is another matter.
    world.gone("b", 2, Failure(message="killed"))
    assert world.status("b").retry_in == 8


def test_stale_messages_change_nothing() -> None:
    world = World()
    world.loaded("b")
    world.gone("b", failure=Failure(message="killed"))
    world.ask("b")
    assert world.ready("b", epoch=1) == []
    assert world.gone("b", epoch=1) == []
    assert world.status("b").state is State.STARTING


def test_an_idle_model_is_stopped() -> None:
    world = World(idle_timeout=60)
    world.loaded("a")
    assert world.planner.next_wake(world.now) == 60
    assert stopped(world.tick(after=58)) == ["a"]


@pytest.mark.parametrize(("own", "why"), [(5, "idle for 5 s"), (0, None), (None, "idle for 60 s")])
def test_a_model_may_have_an_idle_timeout_of_its_own(own: float | None, why: str | None) -> None:
    world = World(idle_timeout=60)
    world.planner.add(ModelSpec(name="e", idle_timeout=own))
    world.loaded("e")
    assert world.status("e").idle_timeout == (60 if own is None else own)
    assert [effect.why for effect in world.tick(100) if isinstance(effect, StopServer)] == [why][
        : why is not None
    ]


@pytest.mark.parametrize("idle_timeout", [0, 60])
def test_keep_alive_counts_instead_of_the_idle_timeout(idle_timeout: float) -> None:
    world = World(idle_timeout=idle_timeout)
    world.loaded("a")
    world.ask("a", keep_alive=5)
    assert world.release(2) == []
    assert world.status("a").keep_alive == 5
    assert stopped(world.tick(after=4.9)) == []
    assert stopped(world.tick(after=0.2)) == ["a"]


def test_keep_alive_of_the_latest_request_counts() -> None:
    world = World()
    world.loaded("a")
    world.ask("a", keep_alive=0)
    world.ask("a", keep_alive=math.inf)
    world.release(2)
    world.release(3)
    assert stopped(world.tick(after=1e9)) == []


def test_keep_alive_zero_waits_for_the_others_and_ends_with_the_load() -> None:
    world = World()
    world.loaded("a")
    world.ask("a")
    world.ask("a", slot=False, load=False, keep_alive=0)
    assert stopped(world.release(3)) == []
    assert stopped(world.release(2)) == ["a"]
    world.gone("a")
    world.ask("a")
    world.ready("a", epoch=2)
    assert stopped(world.release(4)) == []


def test_shut_down_drains_then_finishes_once() -> None:
    world = World()
    world.loaded("a")
    world.ask("a")
    world.ask("b")
    effects = world.send(Shutdown(deadline=world.now + 5))
    assert refused(effects) == {3: ShuttingDown}
    assert stopped(effects) == ["b"], "it was only loading"
    assert refused(world.ask("a")) == {4: ShuttingDown}
    world.gone("b")
    assert stopped(world.release(2)) == ["a"]
    assert world.gone("a") == [ShutDownComplete()]
    assert world.tick(after=1) == []


def test_shut_down_does_not_wait_for_ever() -> None:
    world = World()
    world.loaded("a")
    world.ask("a")
    world.send(Shutdown(deadline=world.now + 5))
    assert world.planner.next_wake(world.now) == world.now + 5
    assert stopped(world.tick(after=5)) == ["a"]
    assert world.planner.next_wake(world.now) == math.inf


def test_steady_traffic_to_one_model_does_not_starve_another() -> None:
    """Two overlapping clients keep `a` busy without a gap, as three peers serve them for ever."""
    world = World(size=1)
    world.loaded("a")
    running = granted(world.ask("a"))
    world.ask("b")
    wanted = world.tickets
    asked_at = world.now
    while world.now < asked_at + 100:
        running += granted(world.ask("a"))
        effects = world.release(running.pop(0), after=0.5) if running else world.tick(after=0.5)
        if "a" in stopped(effects):
            effects += world.gone("a")
        if "b" in started(effects):
            effects += world.ready("b", after=1)
        running += [ticket for ticket in granted(effects) if ticket != wanted]
        if wanted in granted(effects):
            break
    assert world.now - asked_at <= 10 + 1 + 1.5, "patience, one request, one load"


def test_a_server_that_hung_up_gets_no_lease_until_its_fate_is_known() -> None:
    world = World()
    world.loaded("a")
    world.ask("a")
    assert world.release(2, served=False, broken=True) == []
    assert world.ask("a") == []
    # It is dead: the request gets the next server.
    (start,) = world.gone("a", failure=Failure(message="crashed"))
    assert isinstance(start, StartServer)
    (grant,) = world.ready("a", epoch=2)
    assert isinstance(grant, Grant)
    assert (grant.ticket, grant.epoch) == (3, 2)
    # It lives: the request is granted when the time of suspicion is over.
    world.release(3, served=False, broken=True)
    assert world.ask("a") == []
    assert world.planner.next_wake(world.now) == world.now + SUSPICION
    (grant,) = world.tick(SUSPICION)
    assert isinstance(grant, Grant)
    assert (grant.ticket, grant.epoch) == (4, 2)


def test_a_server_that_hangs_gets_no_lease_until_it_is_started_anew() -> None:
    world = World(size=1)
    world.loaded("a")
    world.ask("a")
    assert world.send(Hung(model="a", epoch=1)) == []
    assert world.release(2, served=False, broken=True) == []
    assert world.ask("a") == []
    assert world.tick(after=SUSPICION * 4) == [], "it is being ended, however long that takes"
    assert world.send(Hung(model="a", epoch=0)) == []
    (start,) = world.gone("a", failure=Failure(message="it hung"))
    assert isinstance(start, StartServer)
    assert granted(world.ready("a", epoch=2)) == [3]
    assert world.status("a").failures == 1


# Files


def test_files_are_fetched_before_the_pool_is_asked_for_room() -> None:
    world = World(size=1)
    world.loaded("a")
    world.fetches_slowly = True
    (fetch,) = world.ask("b")
    assert fetch == FetchFiles("b", 1)
    assert world.planner.describe(world.now)[1].state is State.FETCHING
    # It takes no room: the loaded model stays, and serves.
    (grant,) = world.ask("a")
    assert isinstance(grant, Grant)
    world.release(grant.ticket)
    world.tick(5)
    # A second request joins the download.
    assert world.ask("b") == []
    (stop,) = world.send(Fetched(model="b", epoch=1))
    assert isinstance(stop, StopServer)
    (start,) = world.gone("a")
    assert isinstance(start, StartServer)
    assert (start.model, start.epoch) == ("b", 1)
    grants = world.ready("b", after=2)
    assert [(grant.ticket, grant.fetched, grant.loaded) for grant in grants if isinstance(grant, Grant)] == [
        (2, 5, 2),
    ]  # one slot


def test_patience_begins_when_the_files_are_there() -> None:
    world = World(size=1)
    world.loaded("a")
    world.ask("a")
    world.fetches_slowly = True
    world.ask("b")
    world.now += 4
    assert world.send(Fetched(model="b", epoch=1)) == []
    wake = world.planner.next_wake(world.now)
    assert wake == world.now + 10
    world.tick(wake - world.now)
    assert world.planner.describe(world.now)[0].state is State.DRAINING


def test_the_time_to_wait_for_a_turn_does_not_run_during_a_download() -> None:
    world = World()
    world.fetches_slowly = True
    world.ask("a", wait=10)
    assert world.tick(1000) == []
    assert world.planner.waiting == 1
    assert [type(effect) for effect in world.send(Fetched(model="a", epoch=1))] == [StartServer]
    assert world.tick(9) == []
    (reject,) = world.tick(1)
    assert isinstance(reject, Reject)
    assert isinstance(reject.reason, QueueTimeout)


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (Failure(message="m: the disk is full"), LoadFailed),
        (Failure(message="m: no such repository", retryable=False, kind="not_found"), UnknownModel),
        (Failure(message="m: access is restricted", retryable=False, kind="forbidden"), Forbidden),
        (Failure(message="m: has 700 GB", retryable=False, kind="too_large"), NeverFits),
    ],
)
def test_files_that_cannot_be_had(failure: Failure, reason: type[Rejection]) -> None:
    world = World()
    world.fetches_slowly = True
    world.ask("a")
    (reject,) = world.gone("a", failure=failure)
    assert isinstance(reject, Reject)
    assert isinstance(reject.reason, reason)
    assert failure.message in reject.reason.message
    # It is tried again for the next request, at once or after the pause.
    effects = world.ask("a")
    effects += world.tick(8)
    assert effects[-1] == (FetchFiles("a", 2) if not failure.retryable else effects[-1])


def test_a_download_that_nobody_waits_for_goes_on_for_the_grace() -> None:
    world = World()
    world.fetches_slowly = True
    world.ask("a")
    world.send(Cancel(ticket=1))
    assert world.planner.next_wake(world.now) == world.now + 300
    assert world.tick(200) == []
    # Somebody comes back in time, and leaves again.
    assert world.ask("a") == []
    assert world.tick(200) == []
    world.send(Cancel(ticket=2))
    assert world.tick(299) == []
    (stop,) = world.tick(1)
    assert stop == StopServer("a", 1, "nobody waits for its files any more")
    assert world.gone("a") == []
    assert world.ask("a") == [FetchFiles("a", 2)]


def test_files_that_nobody_waits_for_any_more_start_nothing() -> None:
    world = World()
    world.fetches_slowly = True
    world.ask("a")
    world.send(Cancel(ticket=1))
    assert world.send(Fetched(model="a", epoch=1)) == []
    assert world.planner.describe(world.now)[0].state is State.STOPPED


def test_shut_down_ends_a_download() -> None:
    world = World()
    world.fetches_slowly = True
    world.ask("a")
    effects = world.send(Shutdown(deadline=world.now + 10))
    assert [type(effect) for effect in effects] == [Reject, StopServer, ShutDownComplete]


def test_models_come_and_go() -> None:
    world = World()
    world.planner.add(ModelSpec(name="Org/New:Q4"))
    assert world.planner.resolve("org/new:q4") == "Org/New:Q4"
    (start,) = world.ask("ORG/NEW:Q4")
    assert isinstance(start, StartServer)
    assert not world.planner.forget("Org/New:Q4")
    world.gone("Org/New:Q4", failure=Failure(message="crashed"))
    assert world.planner.forget("Org/New:Q4")
    assert world.gone("Org/New:Q4") == []
    assert world.send(Fetched(model="Org/New:Q4", epoch=1)) == []
    assert world.planner.resolve("org/new:q4") is None


def test_a_server_that_was_taken_over_says_nothing_of_the_next_load() -> None:
    world = World(size=1)
    world.ask("a")
    world.ready("a", after=30.0)
    world.release(1)
    world.tick(10.0)
    world.gone("a", failure=Failure(message="crashed"))
    world.tick(10.0)
    world.ask("a")
    world.ready("a", epoch=2, after=0.01, figures=Figures(taken_over=True))
    world.release(2)
    stops = [effect for effect in (*world.ask("b"), *world.tick(300.0)) if isinstance(effect, StopServer)]
    assert "reload 30.0 s" in stops[0].why


def test_the_queue_with_place_and_time_of_each_request() -> None:
    world = World()
    world.ask("b")
    world.ask("a")
    world.ask("a")
    world.now += 3
    places = [
        (one.model, one.ticket, one.position, one.state, one.waited) for one in world.planner.queue(world.now)
    ]
    assert places == [
        ("a", 2, 1, State.STARTING, 3),
        ("a", 3, 2, State.STARTING, 3),
        ("b", 1, 1, State.STARTING, 3),
    ]
    assert world.planner.queue(world.now)[1].seconds > world.planner.queue(world.now)[0].seconds
    world.ready("a")
    world.ready("b")
    assert world.planner.queue(world.now) == []


def unload(world: World, model: str, *, at_once: bool = False) -> list[Effect]:
    return world.send(Unload(model=model, at_once=at_once))


def test_an_idle_model_is_unloaded_and_the_next_request_loads_it_again() -> None:
    world = World()
    world.loaded("a")
    (effect,) = unload(world, "first")
    assert isinstance(effect, StopServer)
    assert (effect.model, effect.why, effect.evicts) == ("a", "the operator unloads it", False)
    world.gone("a")
    assert unload(world, "a") == [], "it does not run"
    assert unload(world, "nobody") == []
    assert started(world.ask("a")) == ["a"]


def test_a_busy_model_serves_those_who_came_before_and_is_unloaded() -> None:
    world = World()
    world.loaded("a")
    for _ in range(3):
        world.ask("a")  # tickets 2 to 4; the last one waits for a slot
    world.now += 1
    assert unload(world, "a") == []
    assert world.status("a").state is State.DRAINING
    world.now += 1
    assert world.ask("a") == [], "whoever comes now waits for the next load"
    assert granted(world.release(2)) == [4]
    assert world.release(3) == []
    assert stopped(world.release(4)) == ["a"]
    assert started(world.gone("a")) == ["a"]
    assert granted(world.ready("a", epoch=2)) == [5]
    assert world.release(5) == [], "it stays: the order was for the earlier run"


def test_a_busy_model_is_unloaded_at_once() -> None:
    world = World()
    world.loaded("a")
    world.ask("a")
    assert stopped(unload(world, "a", at_once=True)) == ["a"]
    assert world.release(2, served=False) == []
    assert world.gone("a") == []
    assert world.status("a").state is State.STOPPED


def test_a_load_that_nobody_waits_for_is_stopped_and_one_that_somebody_waits_for_is_finished_first() -> None:
    world = World()
    world.ask("a")
    assert unload(world, "a") == []
    assert granted(world.ready("a")) == [1]
    assert stopped(world.release(1)) == ["a"]
    world.gone("a")
    world.ask("a")
    assert unload(world, "a") == []
    assert stopped(world.send(Cancel(ticket=2))) == ["a"], "the only one who waited has left"
    world.gone("a", epoch=2)
    world.fetches_slowly = True
    world.ask("b")
    world.send(Cancel(ticket=3))
    assert stopped(unload(world, "b")) == ["b"]
    assert world.status("b").state is State.STOPPED


def test_a_pinned_model_is_neither_idle_for_too_long_nor_evicted() -> None:
    world = World(size=1, idle_timeout=60)
    world.loaded("a")
    assert world.send(Pin(model="a", pinned=True)) == []
    assert world.status("a").pinned
    assert world.tick(after=500) == []
    assert stopped(world.ask("b")) == []
    assert stopped(world.send(Pin(model="a", pinned=False), after=5)) == ["a"]
    assert started(world.gone("a")) == ["b"]


def test_a_pinned_model_can_be_unloaded_and_stays_pinned() -> None:
    world = World()
    world.loaded("a")
    world.send(Pin(model="a", pinned=True))
    assert stopped(unload(world, "a")) == ["a"]
    assert world.status("a").pinned


def test_a_reset_forgets_failures() -> None:
    world = World()
    failure = Failure(message="crashed")
    for epoch in range(1, 6):
        world.ask("a")
        world.gone("a", epoch, failure)
        world.now += 100
    world.now -= 100
    assert world.status("a").failures == 5
    assert refused(world.ask("a")) == {6: LoadFailed}
    assert world.send(Reset(model="a")) == []
    status = world.status("a")
    assert (status.state, status.failures, status.error) == (State.STOPPED, 0, None)
    assert started(world.ask("a")) == ["a"]
    world.ready("a", epoch=6)
    assert world.send(Reset(model="a")) == []
    assert world.status("a").state is State.READY
