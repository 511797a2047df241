"""The planner under random schedules with faults: crashes, late and stale messages, cancels, shut down."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from actors.errors import Failure
from actors.lifecycle import RUNNING
from actors.messages import (
    Acquire,
    BecameReady,
    Cancel,
    Endpoint,
    Event,
    Exited,
    Fetch,
    Fetched,
    Finished,
    Grant,
    Halt,
    Reject,
    Released,
    Shutdown,
    Start,
    Tick,
)
from actors.planner import Planner
from actors.roster import ModelSpec, Policy

MODELS = ("a", "b", "c", "d")
SIZE = 2
SLOTS = 2


class PlannerMachine(RuleBasedStateMachine):
    """Plays the door and the model actors, and keeps its own book of who holds what."""

    def __init__(self) -> None:
        super().__init__()
        policy = Policy(size=SIZE, queue_size=6, min_residency=1, patience=3, idle_timeout=20, fetch_grace=5)
        self.planner = Planner(policy, [ModelSpec(name=name, slots=SLOTS) for name in MODELS])
        self.now = 0.0
        self.tickets = 0
        self.waiting: set[int] = set()
        self.held: dict[int, tuple[str, int]] = {}
        self.processes: dict[str, int] = {}
        self.stopping: set[str] = set()
        self.fetching: dict[str, int] = {}
        self.fetched: dict[str, int] = {}
        self.deadline: float | None = None
        self.finished = 0

    def send(self, event: Event) -> None:
        for effect in self.planner.handle(event, self.now):
            match effect:
                case Grant(ticket=ticket, model=model, epoch=epoch):
                    self.waiting.remove(ticket)
                    assert self.processes[model] == epoch
                    assert model not in self.stopping
                    self.held[ticket] = (model, epoch)
                case Reject(ticket=ticket):
                    self.waiting.remove(ticket)
                case Fetch(model=model, epoch=epoch):
                    assert model not in self.processes
                    assert self.fetching.get(model, 0) < epoch
                    self.fetching[model] = epoch
                case Start(model=model, epoch=epoch):
                    assert model not in self.processes
                    assert self.fetched.pop(model) == epoch
                    self.processes[model] = epoch
                case Halt(model=model, epoch=epoch) if self.fetching.get(model) == epoch:
                    del self.fetching[model]
                case Halt(model=model, epoch=epoch):
                    assert self.processes[model] == epoch
                    busy = [
                        holder for holder, epoch_ in self.held.values() if (holder, epoch_) == (model, epoch)
                    ]
                    overdue = self.deadline is not None and self.now >= self.deadline
                    assert not busy or overdue, "a busy model is never evicted"
                    self.stopping.add(model)
                case Finished():
                    self.finished += 1

    @rule(model=st.sampled_from(MODELS), slot=st.booleans(), wait=st.floats(0.5, 50))
    def ask(self, model: str, slot: bool, wait: float) -> None:
        self.tickets += 1
        self.waiting.add(self.tickets)
        self.send(Acquire(ticket=self.tickets, model=model, slot=slot, deadline=self.now + wait))

    @precondition(lambda self: self.held)
    @rule(data=st.data(), served=st.booleans(), broken=st.booleans())
    def release(self, data: st.DataObject, served: bool, broken: bool) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.held)))
        del self.held[ticket]
        self.send(Released(ticket=ticket, served=served, broken=broken))

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        ticket = data.draw(st.integers(1, self.tickets + 1))
        self.waiting.discard(ticket)
        self.held.pop(ticket, None)
        self.send(Cancel(ticket=ticket))

    @precondition(lambda self: self.fetching)
    @rule(data=st.data(), works=st.booleans(), late=st.booleans())
    def end_fetch(self, data: st.DataObject, works: bool, late: bool) -> None:
        model = data.draw(st.sampled_from(sorted(self.fetching)))
        if late:
            self.send(Fetched(model=model, epoch=self.fetching[model] - 1))
            return
        epoch = self.fetching.pop(model)
        if works:
            self.fetched[model] = epoch
            self.send(Fetched(model=model, epoch=epoch))
        else:
            self.send(Exited(model=model, epoch=epoch, failure=Failure(message="the disk is full")))

    @rule(model=st.sampled_from(MODELS), late=st.integers(0, 2))
    def become_ready(self, model: str, late: int) -> None:
        if model in self.processes:
            self.send(BecameReady(model=model, epoch=self.processes[model] - late, endpoint=Endpoint("x", 1)))

    @rule(model=st.sampled_from(MODELS), retryable=st.booleans(), stale=st.booleans())
    def end(self, model: str, retryable: bool, stale: bool) -> None:
        if stale or model not in self.processes:
            self.send(Exited(model=model, epoch=self.processes.get(model, 1) - 1, failure=None))
            return
        epoch = self.processes.pop(model)
        told = model in self.stopping
        self.stopping.discard(model)
        failure = None if told else Failure(message="crashed", retryable=retryable)
        self.send(Exited(model=model, epoch=epoch, failure=failure))

    @rule(seconds=st.floats(0.01, 30))
    def pass_time(self, seconds: float) -> None:
        wake = self.planner.next_wake(self.now)
        assert wake > self.now
        self.now = min(self.now + seconds, wake)
        self.send(Tick())

    @rule()
    def shut_down(self) -> None:
        if self.tickets > 30 and self.deadline is None:
            self.deadline = self.now + 10
            self.send(Shutdown(deadline=self.deadline))

    @invariant()
    def nothing_is_overcommitted(self) -> None:
        status = self.planner.describe(self.now)
        assert sum(model.state in RUNNING for model in status) == len(self.processes) <= SIZE
        assert all(0 <= model.busy <= SLOTS for model in status)
        assert self.planner.waiting == len(self.waiting) <= 6
        assert self.finished <= 1

    def teardown(self) -> None:
        """With working servers and time, everybody is served, or at least answered."""
        for _ in range(400):
            for ticket in list(self.held):
                del self.held[ticket]
                self.send(Released(ticket=ticket, served=True))
            for model, epoch in list(self.fetching.items()):
                del self.fetching[model]
                self.fetched[model] = epoch
                self.send(Fetched(model=model, epoch=epoch))
            for model, epoch in list(self.processes.items()):
                if model in self.stopping:
                    self.stopping.discard(model)
                    del self.processes[model]
                    self.send(Exited(model=model, epoch=epoch, failure=None))
                else:
                    self.send(BecameReady(model=model, epoch=epoch, endpoint=Endpoint("x", 1)))
            if not self.waiting and not self.held and (self.deadline is None or not self.processes):
                break
            self.now = min(self.now + 1, self.planner.next_wake(self.now))
            self.send(Tick())
        assert not self.waiting
        assert not self.held
        assert self.finished == (self.deadline is not None)


TestPlanner = PlannerMachine.TestCase
TestPlanner.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
