"""The supervisor with its actors: leases under races, restarts, and shut down."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from actors.errors import Failure, LoadFailed, QueueFull, QueueTimeout, RejectedError, ShuttingDown
from actors.model_actor import ModelActor
from actors.runtime import spawn
from actors.scheduler.lifecycle import RUNNING, State
from actors.scheduler.model_states import ModelSpec, Policy
from actors.scheduler.planner import Planner
from actors.supervisor import Supervisor
from tests.actors.fake_backend import FakeBackend

NAMES = ("a", "b", "c", "d")


class World:
    """A supervisor of four models in a pool of two, on fake backends."""

    def __init__(self, *, queue_size: int = 5000) -> None:
        self.backends = {name: FakeBackend() for name in NAMES}
        policy = Policy(size=2, queue_size=queue_size, min_residency=0, patience=0.02, retry_delay=0.01)
        models: dict[str, ModelActor] = {}
        self.supervisor = Supervisor(
            Planner(policy, [ModelSpec(name=name, slots=2) for name in NAMES]), models
        )
        for name, backend in self.backends.items():
            models[name] = ModelActor(name, backend, self.supervisor.tell, stall_timeout=5)

    @property
    def running(self) -> int:
        return sum(backend.running for backend in self.backends.values())

    async def use(self, model: str, *, turns: int = 1, timeout: float = 30) -> int:
        """Hold a lease for some turns of the loop; its epoch."""
        async with self.supervisor.lease(model, timeout=timeout) as lease:
            for _ in range(turns):
                await asyncio.sleep(0)
            lease.served = True
            return lease.grant.epoch


@asynccontextmanager
async def world(*, queue_size: int = 5000) -> AsyncIterator[World]:
    made = World(queue_size=queue_size)
    made.supervisor.start()
    yield made
    await made.supervisor.shut_down(1)
    assert made.running == 0


async def test_two_thousand_racing_requests_leak_nothing() -> None:
    dice = random.Random(7)
    async with world() as it:
        tasks = [
            spawn(it.use(dice.choice(NAMES), turns=dice.randrange(4)), name=f"request {number}")
            for number in range(2000)
        ]
        while waiting := [task for task in tasks if not task.done()]:
            for task in dice.sample(waiting, min(len(waiting), dice.randrange(40))):
                task.cancel()
            if dice.random() < 0.1 and (backend := it.backends[dice.choice(NAMES)]).running:
                backend.starts[-1].died.set()
            for _ in range(dice.randrange(5)):
                await asyncio.sleep(0)
            assert sum(model.state in RUNNING for model in it.supervisor.describe()) <= 2
        served = sum(not task.cancelled() and task.exception() is None for task in tasks)
        assert served
        for task in tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                assert isinstance(error, RejectedError)
        # Whatever happened, everybody can still be served, and no slot is taken.
        for name in NAMES:
            await it.use(name)
        await asyncio.sleep(0.01)
        assert [model.busy for model in it.supervisor.describe()] == [0, 0, 0, 0]
        assert it.supervisor.waiting == 0


async def test_a_crashed_server_is_started_again() -> None:
    async with world() as it:
        assert await it.use("a") == 1
        it.backends["a"].starts[0].died.set()
        async with asyncio.timeout(5):
            while (epoch := await it.use("a")) == 1:
                pass
        assert epoch == 2
        assert it.backends["a"].running == 1


async def test_a_model_that_cannot_be_loaded_fails_its_requests_and_no_others() -> None:
    async with world() as it:
        it.backends["a"].failure = Failure(message="no such file", retryable=False)
        with pytest.raises(RejectedError) as caught:
            await it.use("a")
        assert isinstance(caught.value.reason, LoadFailed)
        assert await it.use("b") == 1


async def test_the_queue_is_bounded_in_length_and_time() -> None:
    async with world(queue_size=1) as it:
        it.backends["a"].healthy = False
        waiting = spawn(it.use("a", timeout=0.05), name="waiting")
        await asyncio.sleep(0)
        with pytest.raises(RejectedError) as caught:
            await it.use("a")
        assert isinstance(caught.value.reason, QueueFull)
        with pytest.raises(RejectedError) as caught:
            await waiting
        assert isinstance(caught.value.reason, QueueTimeout)


async def test_shut_down_waits_for_leases_and_refuses_new_ones() -> None:
    it = World()
    it.supervisor.start()
    async with it.supervisor.lease("a", timeout=5) as lease:
        closing = spawn(it.supervisor.shut_down(5), name="closing")
        with pytest.raises(RejectedError) as caught:
            await it.use("b")
        assert isinstance(caught.value.reason, ShuttingDown)
        assert it.backends["a"].running == 1
        lease.served = True
    await closing
    assert it.running == 0
    assert [model.state for model in it.supervisor.describe()] == [State.STOPPED] * 4
