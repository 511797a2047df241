"""The host of all agents: starts and stops them, selects a request's agents, and describes them."""

import asyncio
import types
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from time import monotonic, time
from typing import TYPE_CHECKING, Any, cast

import msgspec
import structlog

from actors.runtime import spawn
from agents.api import Agent, Call, Clock, Context, Json, Load, Services
from agents.chat import Chat
from agents.errors import AgentError
from agents.host.commands import (
    MOST_COMMANDS,
    AgentCall,
    asks_for_agents,
    parse_name,
    search_in_json,
    take_commands,
)
from agents.host.discovery import REMEDY, BrokenAgentError, Loaded, options_of
from agents.host.guarded import GuardedLLM
from agents.host.operations import Operation, operations_at, operations_of
from agents.host.pipeline import AT_WORK, Run, Step
from agents.host.settings import OLDER_NAMES
from agents.host.supervision import AgentActor, contained
from agents.llm import LLM, Client

if TYPE_CHECKING:
    import aiohttp

log = structlog.get_logger("agents")

FIELD = "agents"
"""The field of a request's body that lists agents."""


class CallContext(msgspec.Struct, frozen=True):
    """The request for which an agent calls models: its guards with their arguments, its key and its id.

    `excluded`: guards that make the call themselves, and would wait for their own decision.
    """

    guards: dict[str, str]
    key: str = ""
    request_id: str = ""
    excluded: frozenset[str] = frozenset()

    def without(self, name: str) -> "CallContext":
        """Return the context for calls by this agent."""
        return msgspec.structs.replace(self, excluded=self.excluded | {name})


_CALL_CONTEXT: ContextVar[CallContext] = ContextVar("calls", default=CallContext({}))  # noqa: B039 (it is frozen)
"""The context of the present request, for agents that call models through `Services.llm`."""


def _current(agent: str) -> CallContext:
    """Return the context of a call that does not name its request."""
    calls = _CALL_CONTEXT.get().without(agent)
    return msgspec.structs.replace(calls, excluded=calls.excluded | AT_WORK.get())


SYSTEM_CLOCK = cast("Clock", types.SimpleNamespace(time=time, monotonic=monotonic))


def _load_of(memory: Callable[[str], object], model: str) -> Load | None:
    """Convert the gateway's own record for authors."""
    found = memory(model)
    return None if found is None else msgspec.convert(found, Load, from_attributes=True)


class AgentHost:
    """All enabled agents (`discovery.load_agents`), one actor each.

    `folder` contains a folder for each agent. `memory` returns an object with the fields of a `Load`, or
    None. `defaults` are the agents of each model's requests (`settings.default_agents`). `skip_broken`:
    start without agents that fail to start.
    """

    def __init__(
        self,
        loaded: Sequence[Loaded],
        *,
        llm: LLM,
        http: "aiohttp.ClientSession",
        folder: Path,
        memory: Callable[[str], object] = lambda model: None,
        defaults: Mapping[str, Sequence[str]] | None = None,
        skip_broken: bool = False,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._llm = llm
        self._clock = clock
        self._folder = folder
        self._http = http
        self._memory = memory
        self._skip_broken = skip_broken
        self._actors = {agent.name: self._actor(agent) for agent in loaded}
        self._retiring: dict[AgentActor, asyncio.Task[None]] = {}
        self._default_agents = defaults or {}
        self._index()

    def _actor(self, agent: Loaded) -> AgentActor:
        services = Services(
            llm=self._guarded(partial(_current, agent.name)),
            http=self._http,
            folder=self._folder / agent.name,
            log=log.bind(agent=agent.name),
            clock=self._clock,
            memory=partial(_load_of, self._memory),
        )
        return AgentActor(agent, services)

    def _index(self) -> None:
        """Build the lookup tables of `may_apply` and `plan`."""
        self._names = set(self._actors) | {old for old, name in OLDER_NAMES.items() if name in self._actors}
        self._always = [AgentCall(actor.name) for actor in self._actors.values() if actor.config.always]
        self._defaults = {
            model: [call for call in map(parse_name, names) if call.agent in self._names]
            for model, names in self._default_agents.items()
        }
        self._names_agents = search_in_json(self._names)

    async def start(self) -> None:
        """Start all agents. Raises `BrokenAgentError` if one fails to start, unless it may be skipped."""
        self._actors = await self._started(self._actors, skip_broken=self._skip_broken)
        self._index()

    @staticmethod
    async def _started(actors: Mapping[str, AgentActor], *, skip_broken: bool) -> dict[str, AgentActor]:
        """Start those that do not run; return all that do. If one may not be skipped, start none."""
        started: list[AgentActor] = []
        found = dict(actors)
        for name, actor in actors.items():
            if actor.has_started:
                continue
            error: Exception | None
            started.append(actor)
            try:
                await asyncio.to_thread(actor.services.folder.mkdir, parents=True, exist_ok=True)
                error = await actor.start()
            except OSError as unmade:
                error = unmade
            except asyncio.CancelledError:
                await _stop(started)
                raise
            if error is None:
                continue
            reason = f"agent {name!r} cannot be started: {actor.file}: {type(error).__name__}: {error}"
            if not skip_broken:
                await _stop(started)
                raise BrokenAgentError(f"{reason}\n{REMEDY}") from error
            log.error("agent left out", reason=reason)
            del found[name]
        return found

    @property
    def loaded(self) -> list[Loaded]:
        """The agents that run."""
        return [actor.loaded for actor in self._actors.values()]

    async def reconfigure(
        self, loaded: Sequence[Loaded], defaults: Mapping[str, Sequence[str]], *, skip_broken: bool
    ) -> None:
        """Take these agents instead. Those that are as before go on, others end with their requests.

        Raises `BrokenAgentError`, with all as it was, if one fails to start and may not be skipped.
        """
        wanted = {agent.name: self._actor(agent) for agent in loaded}
        for name, actor in self._actors.items():
            if name in wanted and wanted[name].loaded == actor.loaded:
                wanted[name] = actor
            elif name in wanted:
                wanted[name].counters = actor.counters
        actors = await self._started(wanted, skip_broken=skip_broken)
        before, self._actors = self._actors, actors
        self._default_agents, self._skip_broken = defaults, skip_broken
        self._index()
        for name, actor in before.items():
            if actors.get(name) is not actor:
                task = spawn(actor.retire(), name=f"end of agent {name}")
                self._retiring[actor] = task
                task.add_done_callback(partial(self._retired, actor))

    def _retired(self, actor: AgentActor, _done: object) -> None:
        self._retiring.pop(actor, None)

    def rest(self) -> None:
        """Cancel the agents' background work, so that a stopping gateway does not wait for its leases.

        Requests still pass the agents. The work continues after the next start.
        """
        for actor in self._actors.values():
            actor.rest()

    async def stop(self) -> None:
        """Let the agents finish their `after` work, for a few seconds, and close them."""
        for task in list(self._retiring.values()):
            task.cancel()
        await _stop([*self._actors.values(), *self._retiring])

    # Requests

    def guards_of(self, model: str) -> list[str]:
        """Return the guards of every request to a model, which must not be bypassed."""
        return list(self._guards_of(model))

    def _guards_of(self, model: str) -> dict[str, str]:
        """Return the guards' arguments by their names."""
        called = [*self._always, *self._defaults.get(model, ())]
        named = {OLDER_NAMES.get(call.agent, call.agent): call.argument for call in called}
        return {name: argument for name, argument in named.items() if self._actors[name].kind.guards}

    def asks_for(self, body: bytes) -> bool:
        """Whether a chat's body itself names agents, even if the rest of it is invalid."""
        return asks_for_agents(body, self._names)

    def may_apply(self, body: bytes, header: str | None, model: str) -> bool:
        """Whether a request may have agents, judged by its bytes. If not, it need not be parsed."""
        if header or self._always or self._defaults.get(model):
            return True
        return self._names_agents(body)

    def plan(
        self,
        chat: Chat,
        *,
        model: str = "",
        header: str | None = None,
        defaults: Sequence[str] = (),
        key: str = "",
        may_name: Callable[[str], bool] = lambda _: True,
        request_id: str = "",
    ) -> Run | None:
        """Select the agents of a request; None if it has neither agents nor commands to be removed.

        `model` is the canonical name, even if the request uses an alias.

        The order is: agents that always run, the model's, `defaults` (the key's), the header's (names
        separated by commas), the body's, the commands. Each agent runs once, where it is named first, with
        the argument given last; guards run after all others. Raises `AgentError` for an unknown name, and for
        a named agent that the key may not use (`may_name`).
        """
        if not chat.messages and not self._guards_of(model or chat.model):
            return None
        given = [*self._always, *self._defaults.get(model or chat.model, ())]
        named = self._named("the key", list(defaults))
        named += self._named("the header", header.split(",") if header else [])
        request = chat
        if FIELD in chat.extra:
            named += self._named(FIELD, chat.extra[FIELD])
            extra = {name: value for name, value in chat.extra.items() if name != FIELD}
            request = msgspec.structs.replace(chat, extra=extra)
        commands, request = take_commands(request, self._names)
        named += commands
        for call in named:
            if not may_name(OLDER_NAMES.get(call.agent, call.agent)):
                message = f"the API key may not use agent {call.agent!r}"
                raise AgentError(message, status=403, code="agent_not_allowed")
        arguments: dict[str, str] = {}
        for call in (*given, *named):
            name = OLDER_NAMES.get(call.agent, call.agent)
            arguments[name] = call.argument or arguments.get(name, "")
        if not arguments and request is chat:
            return None
        chain = sorted(arguments.items(), key=lambda item: self._actors[item[0]].rank)
        guards = {name: argument for name, argument in chain if self._actors[name].kind.guards}
        calls = CallContext(guards, key, request_id)
        _CALL_CONTEXT.set(calls)
        steps = [self._step(chain[place:], chat.model, calls) for place in range(len(chain))]
        return self._run(request, steps, calls)

    def _named(self, where: str, names: Any) -> list[AgentCall]:
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise AgentError(f"{where}: expected a list of agents' names", status=400, param=where)
        _check_text(where, *names)
        if len(names) > MOST_COMMANDS:
            raise AgentError(f"{where}: more than {MOST_COMMANDS} agents", status=400, param=where)
        called = [parse_name(name) for name in names if name.strip()]
        for call in called:
            if call.agent not in self._names:
                there_are = ", ".join(sorted(self._actors)) or "none"
                message = f"{where}: there is no agent {call.agent!r}; enabled are: {there_are}"
                raise AgentError(message, status=400, code="agent_not_found", param=where)
        return called

    def _step(self, chain: Sequence[tuple[str, str]], model: str, calls: CallContext) -> Step:
        """Make the step of the first agent of a chain."""
        (name, argument), *later = chain
        actor = self._actors[name]
        client = Client(
            self._guarded(partial(calls.without, name)), agent=name, budget=actor.config.budget, key=calls.key
        )
        ctx = Context(
            actor.services,
            client,
            request_id=calls.request_id,
            model=model,
            argument=argument,
            key=calls.key,
            later=later,
        )
        return Step(actor, ctx)

    def _run(self, request: Chat, steps: Sequence[Step], calls: CallContext) -> Run:
        async def guards(model: str) -> list[Step]:
            return self._guard_steps(await self._llm.own_name(model), calls)

        return Run(request, steps, request_id=calls.request_id, clock=self._clock, guards=guards)

    # Calls of models

    def _guarded(self, which: Callable[[], CallContext]) -> GuardedLLM:
        """Return the models, for calls with these guards and those of the called model."""

        def guard(model: str, request: Chat) -> Run | None:
            calls = which()
            steps = self._guard_steps(model, calls)
            return self._run(request, steps, calls) if steps else None

        return GuardedLLM(self._llm, guard, lambda: which().key)

    def _guard_steps(self, model: str, calls: CallContext) -> list[Step]:
        asked = {**self._guards_of(model), **calls.guards}
        return [
            self._step([(name, argument)], model, calls)
            for name, argument in asked.items()
            if name not in calls.excluded and name in self._actors  # a reload may have taken it out
        ]

    async def guard_texts(self, model: str, texts: Sequence[str], *, request_id: str = "") -> list[str]:
        """Pass texts for a model through the guards of all its requests. Raises `AgentError`.

        `model` is the canonical name.
        """
        return await self._guarded(lambda: CallContext({}, "", request_id)).guard_texts(model, texts)

    # Descriptions and operations

    def describe(self) -> list[Json]:
        """Describe every agent: name, description, options, counters, state."""
        return [
            {
                **describe_agent(actor.name, actor.kind),
                "always": actor.config.always,
                "state": "down" if actor.down else "up",
                "reason": actor.down or None,
                "counters": msgspec.to_builtins(actor.counters),
                "operations": [
                    {"method": operation.method, "path": operation.path, "description": operation.description}
                    for operation in operations_of(actor.kind)
                ],
            }
            for actor in self._actors.values()
        ]

    async def operate(self, agent: str, method: str, path: str, call: Call, *, key: str = "") -> Json:
        """Carry out an agent's operation, such as `POST documents`. Raises `AgentError`.

        `call.parameters` are those of the query; those of the path are added. `key` is that of the client.
        """
        _CALL_CONTEXT.set(CallContext({}, key))
        _check_text("the path", path)
        _check_text("the media type", call.media_type)
        for parameter in call.parameters.items():
            _check_text("the query", *parameter)
        name = OLDER_NAMES.get(agent, agent)
        if name not in self._actors:
            raise AgentError(f"there is no agent {agent[:80]!r}", status=404, code="agent_not_found")
        actor = self._actors[name]
        matches = operations_at(actor.kind, path)
        if not matches:
            raise AgentError(f"agent {name!r} has no operation {path!r}", status=404, code="not_found")
        for operation, found in matches:
            if operation.method == method:
                parameters = {**found, **call.parameters}
                if parameters != {**parameters, **found}:
                    twice = min(call.parameters.keys() & found.keys())
                    raise AgentError(f"{twice!r} is in the path already", status=400, param=twice)
                run = getattr(actor.agent, operation.function)
                return await self._operate(
                    actor, operation, run(msgspec.structs.replace(call, parameters=parameters))
                )
        allowed = ", ".join(operation.method for operation, _ in matches)
        raise AgentError(f"{path!r} of agent {name!r} takes {allowed}", status=405, code="method_not_allowed")

    def methods_of(self, agent: str, path: str) -> set[str]:
        """The methods of an agent's operations at a path; none for an agent or a path that does not exist."""
        actor = self._actors.get(OLDER_NAMES.get(agent, agent))
        return {operation.method for operation, _ in operations_at(actor.kind, path)} if actor else set()

    async def _operate(
        self, actor: AgentActor, operation: Operation, work: Coroutine[Any, Any, Json]
    ) -> Json:
        actor.uses.add(work)
        try:
            with contained:
                return await work
        except AgentError:
            raise
        except Exception as error:  # the boundary to somebody else's code
            actor.crashed(f"{operation.method} {operation.path}", error)
            raise AgentError(
                f"agent {actor.name!r} failed ({type(error).__name__})", code="agent_failed"
            ) from error


async def _stop(actors: Iterable[AgentActor]) -> None:
    async with asyncio.TaskGroup() as group:
        for actor in actors:
            group.create_task(actor.stop())


def _check_text(where: str, *texts: str) -> None:
    """Raise `AgentError` for text that is not UTF-8: headers, for example, may contain any bytes."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:
        raise AgentError(f"{where} is not UTF-8", status=400) from error


def describe_agent(name: str, kind: type[Agent]) -> Json:
    """Return name, description, and the options as a JSON schema's properties."""
    return {"name": name, "description": kind.description, "options": options_of(kind)}
