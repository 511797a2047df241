"""The containers of this gateway on one engine: start, log, end, removal, and those of a dead gateway.

The end of a container is an event. Events missed while the engine was away are looked up afterwards.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine
from typing import Any

import structlog

from actors.runtime import spawn
from actors.servers.docker.container import Container, ContainerEnd, address_of, end_of, key_of
from actors.servers.docker.engine import Engine, EngineError, EngineInfo, demultiplex
from actors.servers.docker.events import Events, filter_of
from actors.servers.docker.orphans import Orphan, Orphans
from actors.servers.docker.schema import ContainerState, Created, EngineEvent, Inspected, ListedContainer
from actors.servers.docker.spec import GATEWAY, ContainerSpec, Published
from actors.servers.docker.surroundings import Surroundings, look_around

log = structlog.get_logger("docker")

START_PATIENCE = 60.0
"""Seconds within which the engine must start a container, which takes some under load."""
REMOVAL_PATIENCE = 15.0
"""Seconds beyond the grace period within which the engine must stop and remove a container."""

_GONE = frozenset(["exited", "dead", "removing"])


class Containers:
    """All containers of this gateway. `start` begins to watch. Without an engine, calls raise `EngineError`.

    `identity` identifies this gateway, if it has no configured name and does not run in a container.
    `is_dead` says whether the gateway with another identity is dead. `answers` says whether the server at an
    address is healthy. `on_left_over` is called when `left_over` changes.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        name: str | None,
        identity: str,
        is_dead: Callable[[str], bool],
        answers: Callable[[str, int], Awaitable[bool]],
        on_left_over: Callable[[], None],
    ) -> None:
        self.engine = engine
        self.surroundings = Surroundings()
        self.info: EngineInfo | None = None
        self._name = name
        self._identity = identity
        self._is_dead = is_dead
        self._answers = answers
        self._on_left_over = on_left_over
        self._running: dict[str, Container] = {}
        self._doomed: set[str] = set()
        self._orphans = Orphans()
        self._preparing = asyncio.Lock()
        self._prepared = False
        self._watcher: asyncio.Task[None] | None = None
        self._work: set[asyncio.Task[Any]] = set()

    def start(self) -> None:
        """Look for containers of a dead gateway, and start watching, unless it does so already."""
        if self._watcher is not None:
            return
        events = Events(self.engine, self._prepare_label, self._resync, self._happened, self._engine_away)
        self._watcher = spawn(events.watch(), name="events of the engine")

    async def close(self) -> None:
        """Remove orphans that were not taken over. The model actors have stopped the other servers."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.wait([self._watcher])
        for orphan in self._orphans.take():
            _ = self._begin(self._remove(orphan.id, 0.0), orphan.name)
        while self._work:
            await asyncio.wait(self._work)
        await self.engine.close()

    def left_over(self) -> Collection[int]:
        """The sessions of a dead gateway's servers. Their memory counts as free.

        These servers are taken over, or removed before another server starts on their GPUs.
        """
        return self._orphans.sessions()

    def all(self) -> Collection[Container]:
        """The containers that were started or taken over and are not removed."""
        return self._running.values()

    async def prepare(self) -> EngineInfo:
        """Inspect the engine and the gateway's surroundings, once. Raises `EngineError`."""
        async with self._preparing:
            if not self._prepared or self.info is None:
                self.info = await self.engine.info()
                self.surroundings = await look_around(self.engine)
                if self._name:
                    self._identity = self._name
                elif self.surroundings.name:
                    self._identity = f"container {self.surroundings.name}"
                await self._sweep()
                self._prepared = True
                log.info(
                    "Docker Engine",
                    address=self.engine.address,
                    version=self.info.version,
                    rootless=self.info.rootless,
                    gpus=self.info.gpus,
                    identity=self._identity,
                    networks=self.surroundings.networks,
                )
            return self.info

    async def run(
        self, spec: ContainerSpec, published: Published | None, on_line: Callable[[str], None]
    ) -> Container:
        """Create and start a container. Raises `EngineError`; then nothing of the container is left."""
        await self.prepare()
        for orphan in self._orphans.take(model=spec.model, devices=spec.devices):
            log.info("removing a container of a dead gateway", container=orphan.name, model=orphan.model)
            await self._finish_work(self._remove(orphan.id, 0.0), orphan.name)
        # Not cancelled with the caller: the engine would finish, and the container would be unknown.
        work = self._begin(self._run(spec, published, on_line), spec.model)
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError:
            await self._finish_work(self._undo(work), spec.model)
            raise
        result: Container | EngineError = work.result()
        if isinstance(result, EngineError):
            raise result
        return result

    async def take_over(self, spec: ContainerSpec, on_line: Callable[[str], None]) -> Container | None:
        """Return a dead gateway's container that matches this spec and answers; None if there is none.

        Raises `EngineError`.
        """
        await self.prepare()
        orphan = self._orphans.matching(spec.digest)
        if orphan is None:
            return None
        container = Container(orphan.id, orphan.name, on_line)
        self._running[orphan.id] = container
        try:
            doing = f"look up the container {orphan.name}"
            inspected = await self.engine.inspect(orphan.id, doing)
            with self.engine.errors(doing):
                await self._attach(container, inspected, spec.network, tail="60")
            if container.end is None and container.key and await self._answers(*container.address):
                container.serving = container.taken_over = True
                return container
        except EngineError as error:
            log.warning("container cannot be taken over", container=orphan.name, reason=str(error))
        except asyncio.CancelledError:
            await self.remove(container)
            raise
        await self.remove(container)
        return None

    async def remove(self, container: Container, grace: float = 0.0) -> None:
        """Stop (KILL after `grace` seconds) and remove a container.

        Never fails: without the engine, do it later.
        """
        await self._finish_work(self._remove(container.id, grace), container.name)

    # Creation and removal

    def _begin(self, work: "Coroutine[Any, Any, Any]", name: str) -> "asyncio.Task[Any]":
        task = spawn(work, name=f"container of {name}")
        self._work.add(task)
        task.add_done_callback(self._work.discard)
        return task

    async def _finish_work(self, work: "Coroutine[Any, Any, Any]", name: str) -> None:
        """Wait for a task, which continues if the caller is cancelled."""
        await asyncio.wait([self._begin(work, name)])

    async def _run(
        self, spec: ContainerSpec, published: Published | None, on_line: Callable[[str], None]
    ) -> Container | EngineError:
        name = spec.name()
        container: Container | None = None
        try:
            created = await self.engine.ask(
                f"create a container of the image {spec.image}",
                "POST",
                "containers/create",
                answer=Created,
                body=spec.config(self._identity, published),
                params={"name": name},
            )
            container = self._running[created.id] = Container(created.id, name, on_line)
            doing = f"start a container of the image {spec.image}"
            with self.engine.errors(doing):
                async with asyncio.timeout(START_PATIENCE):
                    await self.engine.order(doing, "POST", f"containers/{created.id}/start")
                inspected = await self.engine.inspect(created.id, doing)
                await self._attach(container, inspected, spec.network)
            return container
        except EngineError as error:
            # A failed start leaves a container behind, and a creation may still succeed after its time-out.
            if container is not None or error.in_doubt:
                await self._remove(name, 0.0)
            return error

    async def _undo(self, work: "asyncio.Task[Any]") -> None:
        await asyncio.wait([work])
        if isinstance(container := work.result(), Container):
            await self._remove(container.id, 0.0)

    async def _attach(
        self, container: Container, inspected: Inspected, network: str | None, **since: str
    ) -> None:
        """Begin to follow a container. Raises `ValueError` if its server has no address."""
        self._follow(container, **since)
        if not inspected.state.running:
            await container.read_last_words()
            container.finish(end_of(inspected.state, oom_seen=container.oom_seen))
            return
        container.address = address_of(inspected.network_settings, network)
        container.key = key_of(inspected)
        container.pid = self._session_of(inspected)

    def _follow(self, container: Container, **since: str) -> None:
        container.follower = spawn(self._read_log(container, since), name=f"log of {container.name}")

    async def _read_log(self, container: Container, since: dict[str, str]) -> None:
        try:
            path = f"containers/{container.id}/logs"
            what = {"stdout": "1", "stderr": "1", "follow": "1", **since}
            async with self.engine.stream("read a log", "GET", path, params=what) as pieces:
                async for piece in demultiplex(pieces):
                    await container.lines.take(piece)
        except EngineError as error:
            log.debug("container log ended", container=container.name, reason=str(error))
        finally:
            container.lines.end()
            container.log_read_at = time.time()

    async def _remove(self, id_or_name: str, grace: float) -> None:
        container = self._running.get(id_or_name) or next(
            (known for known in self._running.values() if known.name == id_or_name), None
        )
        doing, path = f"remove the container {id_or_name[:12]}", f"containers/{id_or_name}"
        try:
            with self.engine.errors(doing):
                async with asyncio.timeout(math.ceil(grace) + REMOVAL_PATIENCE):
                    if grace and (container is None or container.end is None):
                        stop = {"t": str(math.ceil(grace))}
                        await self.engine.order(doing, "POST", f"{path}/stop", params=stop)
                        if container is not None:
                            await container.read_last_words()  # which are removed with the container
                    await self.engine.order(doing, "DELETE", path, params={"force": "true", "v": "true"})
        except EngineError as error:
            if error.status not in (404, 409):  # the container is gone, or being removed
                self._doomed.add(id_or_name)
                log.warning("container is removed when the engine is back", reason=str(error))
        if container is not None:
            self._running.pop(container.id, None)
            await container.read_last_words()
            if container.follower is not None:
                container.follower.cancel()
            container.finish(ContainerEnd(how="was removed"))

    # Containers of a dead gateway

    async def _sweep(self) -> None:
        for listed in await self._list(GATEWAY):
            identity = (listed.labels or {}).get(GATEWAY, "")
            mine = identity == self._identity
            if not identity or listed.id in self._running or not (mine or self._is_dead(identity)):
                continue
            orphan = Orphan.of(listed)
            if mine and listed.state == "running":
                await self._keep(orphan)
            else:
                log.warning("removing a container that a dead gateway left behind", container=orphan.name)
                await self._remove(orphan.id, 0.0)
        if self.left_over():
            self._on_left_over()

    async def _keep(self, orphan: Orphan) -> None:
        try:
            inspected = await self.engine.inspect(orphan.id, f"look up the container {orphan.name}")
        except EngineError as error:
            if error.status == 404:  # the container has just ended
                return
            raise
        log.info("a container of a dead gateway still runs", container=orphan.name, model=orphan.model)
        self._orphans.keep(orphan, self._session_of(inspected), self._expire)

    def _session_of(self, inspected: Inspected) -> int:
        here = self.engine.is_local and not self.surroundings.name
        return inspected.state.pid if here else 0

    def _expire(self) -> None:
        for orphan in self._orphans.take():
            log.info("nobody took over a container of a dead gateway", container=orphan.name)
            _ = self._begin(self._remove(orphan.id, 0.0), orphan.name)

    async def _list(self, label: str) -> tuple[ListedContainer, ...]:
        return await self.engine.ask(
            "list its containers",
            "GET",
            "containers/json",
            answer=tuple[ListedContainer, ...],
            params={"all": "true", "filters": filter_of(label)},
        )

    # Events

    async def _prepare_label(self) -> str:
        await self.prepare()
        return f"{GATEWAY}={self._identity}"

    def _engine_away(self) -> None:
        for container in list(self._running.values()):
            if container.serving:
                _ = self._begin(self._check(container), container.name)

    async def _resync(self) -> None:
        """Look up the changes while no events were received."""
        known = dict(self._running)
        listed = {container.id: container for container in await self._list(f"{GATEWAY}={self._identity}")}
        for id_, container in known.items():
            if id_ not in listed:
                container.finish(ContainerEnd(how="was removed by somebody else"))
                continue
            if container.end is None and container.follower is not None and container.follower.done():
                self._follow(container, since=f"{container.log_read_at:.6f}")
            if listed[id_].state in _GONE:
                _ = self._begin(self._note_death(container), container.name)
        doomed, self._doomed = self._doomed, set()
        for id_or_name in doomed:
            _ = self._begin(self._remove(id_or_name, 0.0), id_or_name)

    def _happened(self, event: EngineEvent) -> None:
        container = self._running.get(event.actor.id)
        if container is None:
            return
        match event.action:
            case "oom":
                container.oom_seen = True
            case "die":
                _ = self._begin(self._note_death(container, event.exit_code), container.name)
            case "destroy":
                container.finish(ContainerEnd(how="was removed by somebody else"))
            case _:
                pass

    async def _note_death(self, container: Container, code: int = 0) -> None:
        state = ContainerState(exit_code=code)
        try:
            with self.engine.errors("look it up"):
                async with asyncio.timeout(2):
                    state = (await self.engine.inspect(container.id, "look it up")).state
        except EngineError:
            pass  # removed meanwhile; the event has the exit status
        await container.read_last_words()
        container.finish(end_of(state, oom_seen=container.oom_seen))

    async def _check(self, container: Container) -> None:
        """Without the engine there are no events, so a server that does not answer counts as ended."""
        if not await self._answers(*container.address):
            container.finish(ContainerEnd(how="went away with the Docker Engine"))
