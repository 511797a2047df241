"""One supervised actor per agent: owns the instance, runs its `after` work, restarts it after crashes.

A crash during a request affects only that request, as `on_error` says, so that a single bad request does not
disable an agent for all others. Several crashes in a row without a success restart the instance. A crash in
`run`, `start` or `after` restarts it at once, with back-off. Meanwhile requests fail or skip the agent, and
its `after` work waits.

`runtime.Actor` is not used, because its handlers never wait. Here each message runs a foreign coroutine,
which is awaited for a limited time and may end the instance.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar
from weakref import WeakSet

import msgspec

from actors.runtime import spawn
from agents.api import Agent, Context, Finished, Services
from agents.errors import AgentError, unwrapped
from agents.host.discovery import Loaded

T = TypeVar("T")

GRACE = 0.2
"""Seconds that cancelled work has to end; then it is abandoned."""

FAULTY_AFTER = 3
"""Number of crashed requests in a row after which an instance is restarted."""

BACKOFF, BACKOFF_MAX = 1.0, 60.0
"""Seconds before a restart, doubled with each crash until an instance lives longer than the maximum."""

MAILBOX_LIMIT = 1000
"""Most requests whose `after` may wait; further ones are dropped and counted."""

LOOK = 1.0
"""Seconds between looks whether a replaced agent is still used."""

DRAIN = 5.0
"""Seconds for waiting `after` work when the gateway stops."""


class Counters(msgspec.Struct):
    """Counts an agent's requests by outcome, and its crashes and restarts, since the gateway's start."""

    requests: int = 0
    denied: int = 0
    replied: int = 0
    skipped: int = 0
    failed: int = 0
    crashes: int = 0
    timeouts: int = 0
    restarts: int = 0
    dropped: int = 0


class FinishedRequest(msgspec.Struct, frozen=True):
    """A finished request, for an agent's `after`."""

    ctx: Context
    finished: Finished


class Broken(msgspec.Struct, frozen=True):
    """Reports a broken instance, to be replaced. Ignored if that instance is already gone."""

    agent: Agent
    error: Exception


class OverdueError(Exception):
    """Work took longer than its limit."""


class FaultyError(Exception):
    """Several requests in a row crashed the instance. They are counted already."""


class ExitError(Exception):
    """An agent's code tried to end the process."""


class _Contained:
    """Turns `SystemExit`, for which asyncio would end the gateway, into an ordinary error."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, SystemExit):
            raise ExitError(f"tried to end the process ({error.code})") from error


contained = _Contained()
"""Around all calls of an agent's code."""


async def run_within(work: Coroutine[Any, Any, T], limit: float, *, name: str, services: Services) -> T:
    """Await an agent's coroutine for at most `limit` seconds. Raises `OverdueError`, or its exception.

    A cancellation is passed on to the coroutine. If it ignores that, the caller waits no longer than `GRACE`.
    """

    async def outcome() -> T | Exception:
        try:
            with contained:
                return await work
        except Exception as error:  # the boundary to somebody else's code
            return error

    task = spawn(outcome(), name=name)
    try:
        await asyncio.wait([task], timeout=limit)
    finally:
        overdue = not task.done()
        if overdue:
            task.cancel()
            await asyncio.wait([task], timeout=GRACE)
            if not task.done():
                services.log.error("agent work ignores its cancellation", work=name)
        if task.done():
            work.close()  # the task may have been cancelled before it began
    if overdue:
        raise OverdueError(f"took longer than {limit:g} s")
    if task.cancelled():
        raise RuntimeError("was cancelled from inside")
    result = task.result()
    if isinstance(result, Exception):
        raise result
    return result


class AgentActor:
    """An agent's actor. `agent` raises `AgentError` while the agent does not run."""

    def __init__(self, loaded: Loaded, services: Services) -> None:
        self.loaded = loaded
        self.uses: WeakSet[object] = WeakSet()
        """What still uses the agent: its parts in requests, and operations."""
        self.name = loaded.name
        self.config = loaded.config
        self.kind = loaded.kind
        self.rank = 2 if loaded.kind.guards else int(loaded.kind.last)
        """Agents are ordered by rank, then by the order in which they were named."""
        self.file = loaded.file
        self.services = services
        self.counters = Counters()
        self.down = "it is starting"
        """Why the agent does not run; empty if it runs."""
        self._agent: Agent | None = None
        self._again_at = 0.0
        self._failures = 0
        self._in_a_row = 0
        self._mailbox: asyncio.Queue[FinishedRequest | Broken] = asyncio.Queue()
        self._started: asyncio.Future[Exception | None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._background: asyncio.Task[None] | None = None
        self._rests = False
        self._idle = asyncio.Event()
        self._doing = "start"

    @property
    def has_started(self) -> bool:
        """Whether the actor was started; its agent may be down all the same."""
        return self._task is not None

    @property
    def agent(self) -> Agent:
        """The running instance. Raises `AgentError` if there is none."""
        if self._agent is None:
            seconds = max(1, round(self._again_at - self.services.clock.monotonic()))
            message = f"agent {self.name!r} is down ({self.down}) and is started again in {seconds} s"
            raise AgentError(message, status=503, code="agent_down", retry_after=seconds)
        return self._agent

    async def start(self) -> Exception | None:
        """Start the agent; return the error if it fails, after which it is not tried again."""
        self._started = asyncio.get_running_loop().create_future()
        self._task = spawn(self._supervise(), name=f"agent {self.name}")
        return await self._started

    def rest(self) -> None:
        """Cancel the agent's background work (`run`) for good, because the gateway stops."""
        self._rests = True
        if self._background is not None:
            self._background.cancel()

    async def retire(self) -> None:
        """Stop the agent when its requests are over, because another has its place. Its own work ends now."""
        self.rest()
        while self.uses:  # noqa: ASYNC110 (their end tells nobody)
            await asyncio.sleep(LOOK)
        await self.stop()

    async def stop(self) -> None:
        """Finish the waiting `after` work, within `DRAIN` seconds, and close the agent."""
        if self._task is None or self._task.done():
            return
        if self._agent is not None:
            idle = spawn(self._idle.wait(), name=f"agent {self.name} drains")
            await asyncio.wait([idle, self._task], timeout=DRAIN, return_when=asyncio.FIRST_COMPLETED)
            idle.cancel()
        self._task.cancel()
        await asyncio.wait([self._task])

    def tell(self, ctx: Context, finished: Finished) -> None:
        """Queue a finished request for `after`. Never waits."""
        if self._mailbox.qsize() >= MAILBOX_LIMIT:
            self.counters.dropped += 1
            self.services.log.warning("after is too slow; a request was dropped", request_id=ctx.request_id)
            return
        self._idle.clear()
        self._mailbox.put_nowait(FinishedRequest(ctx, finished))

    def succeeded(self) -> None:
        """Note that the agent has served a request."""
        self._in_a_row = 0

    def crashed(self, where: str, error: BaseException, *, request_id: str | None = None) -> None:
        """Log and count an unexpected exception; restart the agent if no request succeeds any more."""
        self.counters.crashes += 1
        self.services.log.error("agent crashed", method=where, request_id=request_id, exc_info=error)
        if request_id is not None:
            self._in_a_row += 1
            if self._in_a_row == FAULTY_AFTER and self._agent is not None:
                reason = FaultyError(f"{FAULTY_AFTER} requests in a row crashed it")
                self._mailbox.put_nowait(Broken(self._agent, reason))

    async def _supervise(self) -> None:
        assert self._started is not None
        clock = self.services.clock
        while True:
            begun = clock.monotonic()
            try:
                await self._live()
            except Exception as error:  # the boundary to somebody else's code
                if not self._started.done():
                    self._started.set_result(unwrapped(error))
                    return
            if clock.monotonic() - begun > BACKOFF_MAX:
                self._failures = 0
            delay = self._delay
            self._failures = min(self._failures + 1, 10)
            self._again_at = clock.monotonic() + delay
            self.services.log.warning("agent restarts", seconds=delay, reason=self.down)
            await asyncio.sleep(delay)
            self.counters.restarts += 1

    @property
    def _delay(self) -> float:
        """Seconds between the end of an instance and the start of the next."""
        return min(BACKOFF * 2.0**self._failures, BACKOFF_MAX)

    async def _live(self) -> None:
        """Run one instance until it ends. Never returns; raises the logged and counted cause of its end."""
        assert self._started is not None
        agent: Agent | None = None
        try:
            with contained:
                self._doing = "start"
                agent = self.kind(self.config, self.services)
                await self._run_within(agent.start(), "start")
                if not self._rests:
                    self._background = spawn(self._run(agent), name=f"agent {self.name} run")
                self._agent, self.down, self._in_a_row = agent, "", 0
                if not self._started.done():
                    self._started.set_result(None)
                self._doing = "run"
                await self._handle_messages(agent)
        except Exception as error:  # the boundary to somebody else's code
            cause = unwrapped(error)
            self.down = f"{type(cause).__name__}: {cause}"
            self._again_at = self.services.clock.monotonic() + self._delay  # at the earliest: it closes first
            if self._started.done() and not isinstance(error, FaultyError):
                self.crashed(self._doing, error)
            raise
        finally:
            self._agent = None
            if self._background is not None:
                self._background.cancel()
                await asyncio.wait([self._background], timeout=GRACE)
            if agent is not None:
                await self._close(agent)

    async def _handle_messages(self, agent: Agent) -> None:
        while True:
            if self._mailbox.empty():
                self._idle.set()
            message = await self._mailbox.get()
            if isinstance(message, Broken):
                if message.agent is agent:
                    raise message.error
                continue
            self._doing = "after"
            try:
                await self._run_within(agent.after(message.ctx, message.finished), "after")
            except OverdueError as error:
                self.counters.timeouts += 1
                self.services.log.warning(
                    "after failed", reason=str(error), request_id=message.ctx.request_id
                )
            except AgentError as error:
                self.services.log.warning(
                    "after failed", reason=error.message, request_id=message.ctx.request_id
                )
            self._doing = "run"

    async def _run(self, agent: Agent) -> None:
        try:
            with contained:
                await agent.run()
        except Exception as error:  # the boundary to somebody else's code
            self._mailbox.put_nowait(Broken(agent, error))

    async def _close(self, agent: Agent) -> None:
        try:
            with contained:
                await self._run_within(agent.close(), "close")
        except Exception as error:  # the boundary to somebody else's code
            self.services.log.warning("agent could not be closed", exc_info=error)

    async def _run_within(self, work: Coroutine[Any, Any, T], method: str) -> T:
        name = f"agent {self.name} {method}"
        return await run_within(work, self.config.timeout, name=name, services=self.services)
