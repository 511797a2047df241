"""A model server that plays a script on raw sockets, the front door before it, and a strict client.

A script is what one connection does: `bytes` are sent, an `asyncio.Event` is awaited. It begins when
a request has come; `Do.NEXT` awaits another one. At its end the connection stays open. A test that hangs
fails after `PATIENCE` seconds.
"""

import asyncio
import enum
import json
import re
import socket
import struct
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import aiohttp
import msgspec
from aiohttp import web

from actors.config.changes import CurrentConfig
from actors.config.schema import Config, LlamaCpp, Model, Ollama, ServerPool, UsageSettings
from actors.errors import RejectedError, Rejection, UnknownModel
from actors.gpu.calibration import Calibration
from actors.gpu.monitor import GpuMonitor
from actors.gpu.observer import Observer
from actors.hub.cache import CachedModel
from actors.hub.hub import Hub
from actors.messages import Grant, ServerAddress, ServerApiName
from actors.model_names import HubName
from actors.placement.ledger import Ledger
from actors.progress import Progress
from actors.scheduler.lifecycle import State
from actors.scheduler.model_states import ModelStatus, Outlook
from actors.servers.docker.engine import Engine
from actors.servers.ollama.daemons import Daemons
from actors.supervisor import Lease, Supervisor
from agents.host.discovery import Loaded
from agents.host.host import AgentHost
from proxy.access.gate import Gate
from proxy.access.store import KeyStore
from proxy.admin.live.parts import LiveState
from proxy.admin.plan import PlanView
from proxy.answers.agent_calls import Models
from proxy.answers.call import ModelCaller, RequestLimits
from proxy.app import ACCOUNTS, Handlers, make_app
from proxy.catalog import Catalog
from proxy.door.bodies import BODIES, WINDOW, Bodies
from proxy.door.connections import HEAD_TIMEOUT, MOST_CONNECTIONS, ConnectionRules, make_runner
from proxy.door.origins import Origins
from proxy.door.parsing import BASE_PATH
from proxy.handlers.agents import AgentViews
from proxy.handlers.generate import Generate
from proxy.handlers.health import Views
from proxy.handlers.models import ModelViews
from proxy.handlers.ollama_models import OllamaApi
from proxy.handlers.ollama_store import OllamaStore
from proxy.handlers.passthrough import Passing
from proxy.handlers.readiness import Readiness
from proxy.handlers.responses.routes import Responses
from proxy.handlers.responses.store import ResponseStore
from proxy.metrics import Metrics
from proxy.page.files import read_page
from proxy.page.serving import PageViews
from proxy.usage.records import UsageRecords
from proxy.wire.upstream import Upstream

PATIENCE = 20
SMALL = 16 * 1024
"""Size of the sockets' buffers, so that a few MiB fill everything between an upstream and its client."""

Json = dict[str, Any]


class Do(enum.Enum):
    """What a script can do besides sending and waiting."""

    NEXT = "wait for the next request"
    CLOSE = "close the connection"
    RESET = "reset the connection"


Step = bytes | asyncio.Event | Do
Script = Sequence[Step]


class Got(msgspec.Struct, frozen=True):
    """A request as it came. Header names are in lower case; a repeated header is there repeatedly."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes

    def all(self, name: str) -> list[str]:
        """Every value of a header."""
        return [value for key, value in self.headers if key == name]

    @property
    def json(self) -> Json:
        """The body."""
        value: Json = json.loads(self.body)
        return value


class Connection(asyncio.Protocol):
    """One connection of the scripted server. `gone` is set when it has ended, by whatever side."""

    def __init__(self, server: "ScriptedServer", script: Script) -> None:
        self.gone = asyncio.Event()
        self.blocked = asyncio.Event()
        self.played = asyncio.Event()
        self.sent = 0
        self._server = server
        self._script = script
        self._data = b""
        self._heard = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self.transport: asyncio.Transport
        self.task: asyncio.Task[None]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.task = asyncio.create_task(self._play())

    def data_received(self, data: bytes) -> None:
        self._data += data
        self._heard.set()

    def connection_lost(self, _error: Exception | None) -> None:
        self.gone.set()
        self.task.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()
        self.blocked.set()

    def resume_writing(self) -> None:
        self._writable.set()

    async def _play(self) -> None:
        await self._read_request()
        for step in self._script:
            match step:
                case bytes():
                    await self._writable.wait()
                    self.transport.write(step)
                    self.sent += len(step)
                case asyncio.Event():
                    await step.wait()
                case Do.NEXT:
                    await self._read_request()
                case Do.CLOSE:
                    self.transport.close()
                case Do.RESET:
                    self.transport.get_extra_info("socket").setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                    )
                    self.transport.abort()
        self.played.set()

    async def _read_request(self) -> None:
        head, _, rest = await self._read_until(lambda data: b"\r\n\r\n" in data)
        line, *lines = head.decode("utf-8").split("\r\n")
        pairs = (text.partition(": ") for text in lines)
        got = Got(line, [(name.lower(), value) for name, _, value in pairs], b"")
        length = int((got.all("content-length") or ["0"])[0])
        self._data = rest
        await self._read_until(lambda data: len(data) >= length)
        body, self._data = self._data[:length], self._data[length:]
        self._server.requests.append(msgspec.structs.replace(got, body=body))
        self._server.asked.set()

    async def _read_until(self, enough: Callable[[bytes], bool]) -> tuple[bytes, bytes, bytes]:
        while not enough(self._data):
            self._heard.clear()
            await self._heard.wait()
        return self._data.partition(b"\r\n\r\n")


class ScriptedServer:
    """Plays its first script to the first connection, and so on; the last one to all that follow."""

    def __init__(self, scripts: Sequence[Script], *, buffer: int = SMALL) -> None:
        self._buffer = buffer
        self.requests: list[Got] = []
        self.connections: list[Connection] = []
        self.asked = asyncio.Event()
        """Set when a request has been read."""
        self._scripts = list(scripts)
        self.endpoint: ServerAddress

    def _connect(self) -> Connection:
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        self.connections.append(Connection(self, script))
        return self.connections[-1]

    @asynccontextmanager
    async def running(self) -> AsyncIterator["ScriptedServer"]:
        """Listen; end every connection afterwards."""
        listener = listening(self._buffer)
        self.endpoint = ServerAddress("127.0.0.1", listener.getsockname()[1])
        server = await asyncio.get_running_loop().create_server(self._connect, sock=listener)
        try:
            async with asyncio.timeout(PATIENCE):
                yield self
        finally:
            server.close()
            tasks = [connection.task for connection in self.connections]
            for connection in self.connections:
                if not connection.gone.is_set():
                    connection.transport.abort()
                connection.task.cancel()
            for task in tasks:
                await asyncio.wait([task])
                if not task.cancelled():
                    task.result()
            for connection in self.connections:
                await connection.gone.wait()
            await server.wait_closed()


def listening(buffer: int = SMALL) -> socket.socket:
    """A socket for a server on a free port; what it accepts has small buffers."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    listener.bind(("127.0.0.1", 0))
    return listener


def scripted(*scripts: Script, buffer: int = SMALL) -> AbstractAsyncContextManager[ScriptedServer]:
    """`async with scripted([...], [...]) as server`: one script for each connection.

    `buffer`: bytes of its sockets' buffers.
    """
    return ScriptedServer(scripts, buffer=buffer).running()


# What scripts are made of


def head(*lines: str, status: str = "200 OK", version: str = "1.1") -> bytes:
    """A response's head."""
    return "\r\n".join((f"HTTP/{version} {status}", *lines, "", "")).encode("latin-1")


STREAM = head("Content-Type: text/event-stream", "Transfer-Encoding: chunked")
END = b"0\r\n\r\n"
DONE = b"data: [DONE]\n\n"


def chunk(payload: bytes) -> bytes:
    """A chunk, as llama.cpp frames it."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def event(data: object, kind: str = "") -> bytes:
    """A server-sent event, as llama.cpp writes it."""
    name = f"event: {kind}\n" if kind else ""
    return f"{name}data: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


def said(text: str) -> bytes:
    """An event of a chat's stream."""
    choice = {"finish_reason": None, "index": 0, "delta": {"content": text}}
    return event({"choices": [choice], "id": "chatcmpl-x", "object": "chat.completion.chunk"})


def streamed(*events: bytes) -> list[Step]:
    """The script of a whole stream, an event a chunk."""
    return [STREAM, *(chunk(one) for one in events), END]


def whole(body: bytes, *lines: str, status: str = "200 OK") -> bytes:
    """A response with a length."""
    return head(*lines, f"Content-Length: {len(body)}", status=status) + body


def json_answer(data: object, status: str = "200 OK") -> bytes:
    """A JSON response."""
    return whole(json.dumps(data).encode(), "Content-Type: application/json", status=status)


# The door


class LeaseRequest(msgspec.Struct, frozen=True):
    """A lease that was asked for."""

    model: str
    slot: bool
    load: bool


class FakeSupervisor:
    """Leases its one model at once, when `gate` opens, or never (`rejection`)."""

    def __init__(self, endpoint: ServerAddress) -> None:
        self.endpoint = endpoint
        self.names = {"demo": "demo", "org/demo:latest": "demo"}
        self.gate: asyncio.Event | None = None
        self.rejection: Rejection | None = None
        self.asked: list[LeaseRequest] = []
        self.waits = asyncio.Event()
        self.left = asyncio.Event()
        """A requester has left while it waited."""
        self.served: list[bool] = []
        """Of each lease that has ended."""
        self.broken: list[bool] = []
        self.prompts = None
        """Of each lease that has ended."""
        self.restarted: ServerAddress | None = None
        """Where the model is found after its server has broken down."""
        self.freed = asyncio.Event()
        self.models: list[ModelStatus] = []
        self.download: Progress | None = None
        self.waiting = 0
        self.outlooks: list[Outlook] = []
        self.closing = False
        self.ledger = Ledger()

    def queue(self) -> list[Outlook]:
        return self.outlooks

    def outlook(self, ticket: int) -> Outlook | None:
        assert ticket == 1
        return Outlook(model="demo", state=State.STARTING, position=2, seconds=7.4, why=None)

    def resolve(self, name: str) -> str | None:
        return self.names.get(name)

    def api_of(self, name: str) -> ServerApiName | None:
        return self.endpoint.api if name in self.names else None

    def would_adopt(self, _name: str) -> bool:
        return False

    def names_of(self, name: str) -> tuple[str, ...]:
        return tuple(alias for alias, known in self.names.items() if known == name)

    def describe(self) -> list[ModelStatus]:
        return self.models

    async def files(self, _name: str) -> None:
        """None of its models is a file."""

    def progress(self, _model: str) -> Progress | None:
        return self.download

    @asynccontextmanager
    async def lease(
        self,
        model: str,
        *,
        timeout: float,
        client: str = "",
        slot: bool = True,
        load: bool = True,
        keep_alive: float | None = None,
        on_ticket: Callable[[int], None],
    ) -> AsyncIterator[Lease]:
        assert timeout > 0
        on_ticket(1)
        self.asked.append(LeaseRequest(model, slot, load))
        if self.rejection is not None:
            raise RejectedError(self.rejection)
        if (name := self.resolve(model)) is None:
            raise RejectedError(UnknownModel(message=f"model {model!r} not found"))
        if self.gate is not None:
            self.waits.set()
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.left.set()
                raise
        lease = Lease(
            Grant(ticket=1, model=name, epoch=7, endpoint=self.endpoint, queued=0.25, fetched=0.5, loaded=1.5)
        )
        try:
            yield lease
        finally:
            self.served.append(lease.served)
            self.broken.append(lease.broken)
            if lease.broken and self.restarted is not None:
                self.endpoint = self.restarted
            self.freed.set()


NOTHING_LEARNED = Calibration(None)
PAGE = read_page()


class FakeHub:
    """A hub with nothing in its cache."""

    def listed(self) -> list[CachedModel]:
        return []

    def allows(self, _name: HubName) -> bool:
        return False


def model_status(name: str, state: State = State.READY, **fields: Any) -> ModelStatus:
    """A model's status; `fields` replace the defaults."""
    defaults: Json = {
        "aliases": (),
        "hidden": False,
        "api": "llama.cpp",
        "epoch": 1,
        "slots": 4,
        "busy": 0,
        "waiting": 0,
        "endpoint": None,
        "ready_seconds": None,
        "load_seconds": None,
        "idle_seconds": None,
        "keep_alive": None,
        "idle_timeout": 0,
        "pinned": False,
        "failures": 0,
        "retry_in": None,
        "error": None,
        "place": None,
        "placement": None,
        "memory": {},
    }
    return ModelStatus(name=name, state=state, **{**defaults, **fields})


class Door:
    """A front door that serves. `url` goes before a path; `session` is a client."""

    def __init__(
        self, supervisor: FakeSupervisor, port: int, session: aiohttp.ClientSession, bodies: Bodies
    ) -> None:
        self.supervisor = supervisor
        self.bodies = bodies
        self.port = port
        self.session = session
        self.clients: list[Client] = []
        self.app: web.Application

    async def connect(self, *, buffer: int = 2**16, sends: int | None = None) -> "Client":
        """A client on a socket of its own, that holds about twice `buffer` bytes unread, `sends` unsent."""
        connection = socket.socket()
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        if sends is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, sends)
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", self.port))
        client = Client(*await asyncio.open_connection(sock=connection, limit=buffer))
        self.clients.append(client)
        return client

    async def ask(self, path: str = "/v1/chat/completions", **fields: Any) -> "Client":
        """A client that has asked for a stream."""
        client = await self.connect()
        await client.post(path, request_body(path, **{"stream": True, **fields}))
        return client

    async def post(self, path: str, **fields: Any) -> "Answer":
        """The whole answer to a POST."""
        client = await self.connect()
        await client.post(path, request_body(path, **fields))
        return await client.answer()


@asynccontextmanager
async def door(
    server: ScriptedServer | None = None,
    *,
    silence: float = 60,
    write_timeout: float = 60,
    body_limit: int = 2**20,
    keepalive_interval: float = 60,
    telling_interval: float = 0.02,
    prepare: Callable[[FakeSupervisor], None] = lambda _: None,
    agents: Sequence[Loaded] = (),
    origins: Origins | None = None,
    gate: Gate | None = None,
    body_window: float = WINDOW,
    most: int = MOST_CONNECTIONS,
    head_timeout: float = HEAD_TIMEOUT,
    base_path: str = "",
    routes: Mapping[str, Callable[[web.Request], Awaitable[web.StreamResponse]]] | None = None,
    responses: ResponseStore | None = None,
    models: Mapping[str, Model] | None = None,
) -> AsyncIterator[Door]:
    """The front door, before a scripted server or before a port that refuses connections."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(asyncio.timeout(PATIENCE))
        refusing = stack.enter_context(socket.socket())
        refusing.bind(("127.0.0.1", 0))
        nowhere = ServerAddress("127.0.0.1", refusing.getsockname()[1])
        supervisor = FakeSupervisor(server.endpoint if server else nowhere)
        prepare(supervisor)
        real = cast("Supervisor", supervisor)
        upstream = Upstream(silence_limit=silence)
        stack.push_async_callback(upstream.close)
        limits = RequestLimits(
            body=body_limit,
            queue_timeout=60,
            write_timeout=write_timeout,
            keepalive_interval=keepalive_interval,
            telling_interval=telling_interval,
        )
        hub = cast("Hub", FakeHub())
        observer = Observer(GpuMonitor(0), NOTHING_LEARNED, manages=True)
        current = CurrentConfig(
            Config(server_pool=ServerPool(size=3), llama_cpp=LlamaCpp(models=dict(models or {})))
        )
        daemons_session = await stack.enter_async_context(aiohttp.ClientSession())
        daemons = Daemons(Ollama(), daemons_session)
        catalog = Catalog(real, hub, daemons, current)
        readiness = Readiness(real, current, Engine("unix:///nowhere/docker.sock"), daemons, observer.monitor)
        views = Views(real, catalog, observer, current, version="1.2.3")
        caller = ModelCaller(real, upstream, limits)
        store = OllamaStore(caller, catalog, hub, daemons_session)
        ollama = OllamaApi(catalog, store)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        host = AgentHost(agents, llm=Models(caller, catalog), http=daemons_session, folder=folder)
        await host.start()
        stack.push_async_callback(host.stop)
        generate = Generate(caller, catalog, host)
        metrics = Metrics(
            real, observer.monitor, readiness, UsageRecords(UsageSettings(keep_days=0)), version="1.2.3"
        )
        live = LiveState(real, catalog, views)
        passing = Passing(real, caller, catalog, host)
        handlers = Handlers(
            generate=generate,
            passing=passing,
            views=views,
            models=ModelViews(catalog),
            readiness=readiness,
            ollama=ollama,
            agents=AgentViews(host),
            responses=Responses(generate, responses or ResponseStore(folder / "nowhere", 0)),
            metrics=metrics,
            live=live,
            page=PageViews(PAGE),
            admin=PlanView(real).routes,
        )
        gate = gate or Gate(KeyStore(Path("/nowhere/keys")))
        app = make_app(
            handlers, origins or Origins(), gate, (metrics.account, gate.settle, live.feed.account)
        )
        for path, handler in (routes or {}).items():
            app.router.add_get(path, handler)
        bodies = app[BODIES] = Bodies(body_limit, window=body_window)
        rules = ConnectionRules(
            most=most, head_timeout=head_timeout, write_timeout=write_timeout, base_path=base_path
        )
        port = await _serve(app, rules, stack)
        session = aiohttp.ClientSession(base_url=f"http://127.0.0.1:{port}")
        opened = Door(supervisor, port, await stack.enter_async_context(session), bodies)
        opened.app = app
        try:
            yield opened
        finally:
            for client in opened.clients:
                client.leave()
                await client.closed()


async def _serve(app: web.Application, rules: ConnectionRules, stack: AsyncExitStack) -> int:
    """Serve until `stack` ends; return the port."""
    app[BASE_PATH] = rules.base_path
    runner = make_runner(app, app[ACCOUNTS], rules)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    listener = listening()
    await web.SockSite(runner, listener).start()
    port: int = listener.getsockname()[1]
    return port


def request_body(path: str, **fields: Any) -> Json:
    """A body that the endpoint accepts."""
    needed: dict[str, Json] = {
        "/v1/completions": {"prompt": "x"},
        "/completion": {"prompt": "x"},
        "/infill": {"input_prefix": "a", "input_suffix": "b"},
        "/v1/responses": {"input": "x"},
        "/v1/messages": {"messages": [{"role": "user", "content": "x"}]},
        "/v1/embeddings": {"input": "x"},
        "/v1/rerank": {"query": "x", "documents": []},
        "/tokenize": {"content": "x"},
        "/detokenize": {"tokens": [1]},
    }
    return {"model": "demo", **needed.get(path, {"messages": [{"role": "user", "content": "hi"}]}), **fields}


# The client


class Answer(msgspec.Struct, frozen=True):
    """A response to the end. `framing` is "chunked", "length", "close" or "none"; `reusable` as announced."""

    status: int
    headers: dict[str, str]
    body: bytes
    framing: str

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)


class Client:
    """Speaks HTTP by hand, and accepts nothing but well-formed framing."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def request(
        self, method: str, target: str, *lines: str, body: bytes | None = None, version: str = "1.1"
    ) -> None:
        """Send a request."""
        length = [] if body is None else [f"Content-Length: {len(body)}"]
        text = "\r\n".join([f"{method} {target} HTTP/{version}", "Host: x", *lines, *length, "", ""])
        await self.send(text.encode() + (body or b""))

    async def post(self, path: str, body: Json, *lines: str, version: str = "1.1") -> None:
        """Send a JSON request."""
        await self.request("POST", path, *lines, body=json.dumps(body).encode(), version=version)

    async def head(self) -> Answer:
        """The head of a response; its body is still to be read."""
        data = (await self._reader.readuntil(b"\r\n\r\n"))[:-4].decode("latin-1")
        line, *lines = data.split("\r\n")
        version, status, _ = line.split(" ", 2)
        assert version in ("HTTP/1.1", "HTTP/1.0")
        headers: dict[str, str] = {}
        for text in lines:
            name, colon, value = text.partition(": ")
            assert colon
            assert name.lower() not in headers, f"{name} is repeated"
            headers[name.lower()] = value
        chunked = headers.get("transfer-encoding") == "chunked"
        assert not (chunked and "content-length" in headers)
        empty = int(status) in (204, 304) or int(status) < 200
        framing = (
            "none"
            if empty
            else "chunked"
            if chunked
            else "length"
            if "content-length" in headers
            else "close"
        )
        return Answer(int(status), headers, b"", framing)

    async def chunk(self) -> bytes:
        """The payload of the next chunk; empty at the end of the body."""
        line = await self._reader.readuntil(b"\r\n")
        assert re.fullmatch(rb"[0-9a-fA-F]+(;[^\r\n]*)?\r\n", line), line
        size = int(line.partition(b";")[0], 16)
        payload = await self._reader.readexactly(size + 2)
        assert payload.endswith(b"\r\n")
        return payload[:-2]

    async def body(self) -> bytes:
        """A chunked body to its end."""
        pieces: list[bytes] = []
        while piece := await self.chunk():
            pieces.append(piece)
        return b"".join(pieces)

    async def answer(self, method: str = "POST") -> Answer:
        """A response to the end."""
        answer = await self.head()
        body = b""
        if answer.framing == "chunked":
            body = await self.body()
        elif answer.framing == "length" and method != "HEAD":
            body = await self._reader.readexactly(int(answer.headers["content-length"]))
        elif answer.framing == "close" and method != "HEAD":
            body = await self.rest()
        return msgspec.structs.replace(answer, body=body)

    async def some(self, limit: int) -> bytes:
        """What has come of a body, at most `limit` bytes; waits for the first."""
        return await self._reader.read(limit)

    async def rest(self) -> bytes:
        """Everything until the connection is closed."""
        return await self._reader.read()

    async def read(self, count: int) -> bytes:
        """The next bytes, as they are."""
        return await self._reader.readexactly(count)

    def shut(self) -> None:
        """Send no more, but read on."""
        self._writer.write_eof()

    def close(self) -> None:
        """Close the connection as a program does that ends."""
        self._writer.close()

    def leave(self) -> None:
        """Close the connection at once, whatever is on its way."""
        self._writer.transport.abort()

    async def closed(self) -> None:
        """The connection is closed on this side too."""
        with suppress(OSError):
            await self._writer.wait_closed()


async def reached(condition: Callable[[], bool]) -> None:
    """Return when something has come to be. The door's patience is the limit."""
    while not condition():  # noqa: ASYNC110 (what is waited for sets no event)
        await asyncio.sleep(0.01)


def unchunk(wire: bytes) -> list[bytes]:
    """The payloads of a sequence of whole, well-formed chunks; the last one of a whole body is empty."""
    payloads: list[bytes] = []
    while wire:
        size = re.match(rb"([0-9a-fA-F]+)(?:;[^\r\n]*)?\r\n", wire)
        assert size, f"no chunk: {wire[:40]!r}"
        end = size.end() + int(size[1], 16)
        assert wire[end : end + 2] == b"\r\n", f"a chunk of {size[1]!r} bytes does not end there"
        payloads.append(wire[size.end() : end])
        wire = wire[end + 2 :]
    return payloads
