"""The stand-in for Ollama without its answers: what runs, and what it tells of that; beginning and end."""

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web

from tests.stand_in_ollama_store import (
    BadRequestError,
    Model,
    duration,
    full_name,
    go_time,
    nanoseconds,
    read_body,
    vector,
)

RUNNER = ("num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread")
"""Options with which a model is loaded: others of them load it anew."""
BUSY = "server busy, please try again.  maximum pending requests exceeded"


class RefusedError(Exception):
    """Carries the daemon's answer."""

    def __init__(self, response: web.Response) -> None:
        super().__init__()
        self.response = response


@dataclass
class Loaded:
    """A model that runs."""

    options: dict[str, Any]
    context: int
    keep: float = 300.0
    expires_at: float = 0.0
    active: int = 0


@dataclass
class Base:
    """The daemon while the `async with` block lasts; `stop` and `start` again to restart it on its port."""

    models: dict[str, Model] = field(default_factory=lambda: {"tiny:latest": Model()})
    remote: dict[str, Model] = field(default_factory=dict)
    """What can be pulled."""
    version: str = "0.32.1"
    orders: set[str] = field(default_factory=set)
    gate: asyncio.Event | None = None
    """Loads wait for it, and pulls when half is there."""
    load_seconds: float = 0.0
    word_seconds: float = 0.0
    default_context: int = 4096
    port: int = 0
    loaded: dict[str, Loaded] = field(default_factory=dict)
    loads: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """Every load that was begun, with its options."""
    seen: list[tuple[str, str, Any]] = field(default_factory=list)
    """Method, path and body of every request."""
    blobs: dict[str, bytes] = field(default_factory=dict)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    """A load or a pull has begun."""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen; on the same port as before, with nothing loaded."""
        self.loaded.clear()
        app = web.Application(middlewares=[self._door], client_max_size=1 << 30)
        for method in ("GET", "HEAD"):
            app.router.add_route(method, "/", self._root)
            app.router.add_route(method, "/api/version", self._version)
            app.router.add_route(method, "/api/tags", self._tags)
        app.router.add_get("/api/ps", self._ps)
        for name in ("show", "embed", "embeddings"):
            app.router.add_post(f"/api/{name}", getattr(self, f"_{name}"))
        self.add_routes(app.router)
        self._runner = web.AppRunner(app, shutdown_timeout=0.01, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Those of answers."""

    async def stop(self) -> None:
        """Go away, and break all connections."""
        await self._runner.cleanup()

    @web.middleware
    async def _door(self, request: web.Request, handler: Any) -> web.StreamResponse:
        data = await request.read()
        is_blob = "/blobs/" in request.path
        self.seen.append((request.method, request.path, data if is_blob else data.decode(errors="replace")))
        if "frozen" in self.orders or ("silent" in self.orders and request.path != "/api/version"):
            await asyncio.Event().wait()
        if "garbage" in self.orders:
            return web.Response(body=b"<html>I am no Ollama", content_type="text/html")
        if "endless" in self.orders:
            return await self._endless(request)
        if "redirect" in self.orders:
            raise web.HTTPFound("http://127.0.0.1:1/")
        try:
            return await handler(request)  # type: ignore[no-any-return]
        except BadRequestError as error:
            return self.error(400, str(error))
        except RefusedError as error:
            return error.response
        except web.HTTPNotFound:
            return web.Response(status=404, text="404 page not found")
        except web.HTTPMethodNotAllowed:
            return web.Response(status=405, text="405 method not allowed")

    @staticmethod
    async def _endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" " * 65536)

    @staticmethod
    def json(body: Any, status: int = 200) -> web.Response:
        """As Go writes it."""
        text = json.dumps(body, separators=(",", ":"), ensure_ascii=False)
        return web.Response(text=text, status=status, content_type="application/json", charset="utf-8")

    def error(self, status: int, message: str) -> web.Response:
        """Ollama's form of an error."""
        return self.json({"error": message}, status)

    def find(self, name: str) -> str | None:
        """The model's own name, however it is written."""
        wanted = full_name(name).casefold()
        return next((known for known in self.models if known.casefold() == wanted), None)

    # What only tells

    async def _root(self, request: web.Request) -> web.Response:
        return web.Response(text="Ollama is running")

    async def _version(self, request: web.Request) -> web.Response:
        return self.json({"version": self.version})

    async def _tags(self, request: web.Request) -> web.Response:
        models = [
            {
                "name": name,
                "model": name,
                **({"remote_host": model.remote_host} if model.remote_host else {}),
                "modified_at": go_time(model.modified_at),
                "size": model.size,
                "digest": model.digest(name),
                "details": {**model.details, "context_length": model.context, "embedding_length": 1024},
                "capabilities": model.capabilities,
            }
            for name, model in sorted(self.models.items(), key=lambda item: -item[1].modified_at)
        ]
        return self.json({"models": models})

    async def _ps(self, request: web.Request) -> web.Response:
        self.expire()
        running = []
        for name, loaded in sorted(self.loaded.items(), key=lambda item: -item[1].expires_at):
            model = self.models.get(name) or Model()
            running.append(
                {
                    "name": name,
                    "model": name,
                    "size": model.takes,
                    "digest": model.digest(name),
                    "details": model.details,
                    "expires_at": go_time(loaded.expires_at),
                    "size_vram": 0 if loaded.options.get("num_gpu") == 0 else model.on_gpus,
                    "context_length": loaded.context,
                }
            )
        return self.json({"models": running})

    async def _show(self, request: web.Request) -> web.Response:
        body = read_body(await request.read(), "ShowRequest")
        wanted = body.get("model") or body.get("name")
        if not wanted:
            raise BadRequestError("model is required")
        if (name := self.find(wanted)) is None:
            return self.error(404, f"model '{full_name(wanted)}' not found")
        return self.json(self.models[name].shown)

    # Loading

    def running(self, name: str) -> str | None:
        """The name under which the model's weights are loaded."""
        weights = self.models[name].weights
        others = (other for other in self.loaded if other in self.models)
        return next((other for other in others if self.models[other].weights == weights), None)

    def expire(self) -> None:
        """Unload what nobody uses and whose time is over."""
        now = time.time()
        for name, loaded in list(self.loaded.items()):
            over = loaded.keep <= 0 or loaded.expires_at <= now
            if over and not loaded.active and "refuse-unload" not in self.orders:
                del self.loaded[name]

    async def load(self, name: str, body: dict[str, Any]) -> Loaded:
        """Have it loaded with these options. Raises `RefusedError`."""
        self.expire()
        options = {**self.models[name].parameters, **(body.get("options") or {})}
        wanted = {key: options[key] for key in RUNNER if key in options}
        running = self.running(name)
        loaded = self.loaded.get(running or "")
        if loaded is not None:
            before = {"num_ctx": self.default_context, **loaded.options}
            after = {"num_ctx": self.default_context, "num_gpu": before.get("num_gpu"), **wanted}
            if any(before.get(key) != after.get(key) for key in RUNNER):
                loaded = None
                del self.loaded[running or ""]
        if loaded is None:
            self.loads.append((name, wanted))
            self.arrived.set()
            if "busy" in self.orders:
                raise RefusedError(self.error(503, BUSY))
            await asyncio.sleep(self.load_seconds)
            if self.gate is not None:
                await self.gate.wait()
            if "fail-load" in self.orders:
                raise RefusedError(
                    self.error(500, "llama-server process has terminated: exit status 1: out of memory")
                )
            context = min(int(wanted.get("num_ctx", self.default_context)), self.models[name].context)
            loaded = self.loaded[name] = Loaded(wanted, context)
        if body.get("keep_alive") is not None:
            loaded.keep = duration(body["keep_alive"])
        loaded.expires_at = time.time() + loaded.keep
        return loaded

    @staticmethod
    def keep_alive(body: dict[str, Any]) -> float | None:
        """Seconds, if the request says; raises `BadRequestError`."""
        return None if body.get("keep_alive") is None else duration(body["keep_alive"])

    def check(self, name: str, wanted: str, body: dict[str, Any]) -> None:
        """Raises `BadRequestError` for what the model cannot do."""
        self.keep_alive(body)
        capabilities, think = self.models[name].capabilities, body.get("think")
        if isinstance(think, str) and think not in ("low", "medium", "high", "max"):
            choices = '(must be "high", "medium", "low", "max", true, or false)'
            raise BadRequestError(f'invalid think value: "{think}" {choices}')
        if think and "thinking" not in capabilities:
            raise BadRequestError(f'"{wanted}" does not support thinking')
        for asked, capability in (("tools", "tools"), ("suffix", "insert")):
            if body.get(asked) and capability not in capabilities:
                raise BadRequestError(f"registry.ollama.ai/library/{name} does not support {capability}")

    # Embeddings

    async def _embed(self, request: web.Request) -> web.Response:
        began = time.perf_counter()
        body = read_body(await request.read(), "EmbedRequest")
        given = body.get("input")
        texts = [given] if isinstance(given, str) and given else given or []
        if not isinstance(texts, list) or any(not isinstance(text, str) for text in texts):
            raise BadRequestError("invalid input type")
        wanted = body.get("model") or ""
        if (name := self.find(wanted)) is None:
            return self.error(404, f'model "{wanted}" not found, try pulling it first')
        await self.load(name, body)
        if not texts:
            return self.json({"model": wanted, "embeddings": []})
        context = self.loaded[name].context
        words = [len(text.split()) for text in texts]
        if body.get("truncate") is False and any(count > context for count in words):
            return self.error(400, "the input length exceeds the context length")
        vectors = [vector(text, min(body.get("dimensions") or 8, 8)) for text in texts]
        read = sum(min(count, context) for count in words)
        counts = {"load_duration": 1_000_000, "prompt_eval_count": read}
        answered = {"model": wanted, "embeddings": vectors, "total_duration": nanoseconds(began)}
        return self.json({**answered, **counts})

    async def _embeddings(self, request: web.Request) -> web.Response:
        body = read_body(await request.read(), "EmbeddingRequest")
        wanted = body.get("model") or ""
        if (name := self.find(wanted)) is None:
            return self.error(404, f'model "{wanted}" not found, try pulling it first')
        await self.load(name, body)
        return self.json({"embedding": vector(body["prompt"]) if body.get("prompt") else []})
