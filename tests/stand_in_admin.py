"""A pretended gateway for the page, whose state a test sets.

It serves the real page, and answers `/admin/*` as docs/control.md says. `python -m tests.stand_in_admin` runs
it on port 8899, to look at the page.
"""

import asyncio
import json
import threading
import time
from collections.abc import Callable
from typing import Any

from aiohttp import web

from proxy.page.files import read_page
from proxy.page.serving import PageViews
from tests.stand_in_machine import (
    CHECKS,
    CONFIG,
    FILES,
    GIB,
    HITS,
    HOSTILE,
    KEYS,
    RELOAD,
    activity,
    busy,
    usage,
)

Json = dict[str, Any]


class StandIn:
    """The pretended gateway. Changes are made from any thread."""

    def __init__(self) -> None:
        self.url = ""
        self.reset()
        self._streams: list[web.StreamResponse] = []
        self._cursor = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._runner: web.AppRunner | None = None

    def reset(self) -> None:
        """Be as at the beginning."""
        self.state = busy()
        self.rows = activity(300)
        self.lines: list[Json] = []
        self.missing: set[str] = set()
        """Paths that this gateway does not have."""
        self.key: str | None = None
        """The only key, if one is needed."""
        self.is_admin = True
        """Whether its client may use /admin."""
        self.is_cut = False
        """Whether no stream of events can be opened."""
        self.is_away = False
        """Whether every connection is cut."""
        self._gathered = asyncio.Event()
        self._gathered.set()
        self.asked: list[str] = []
        """Methods and paths with queries, of all requests to `/admin`."""
        self.cursors: list[str | None] = []
        """What each stream of events asked to continue after."""

    # From a test

    def start(self, port: int = 0) -> "StandIn":
        """Serve on 127.0.0.1."""
        self._thread.start()
        self.call(self._start(port))
        return self

    def stop(self) -> None:
        """End all connections and the loop."""
        assert self._runner is not None
        self.call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def call(self, work: Any) -> Any:
        """Run a coroutine on the loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    def hold(self) -> None:
        """Be slow to gather what a page needs first: the snapshot, and the list of models."""
        self._gathered.clear()

    def release(self) -> None:
        """Have gathered it."""
        self._loop.call_soon_threadsafe(self._gathered.set)

    def push(self, event: str, data: Any) -> None:
        """Send an event to all open pages."""
        self.call(self._push(event, data))

    def cut(self) -> None:
        """Cut all streams of events."""
        self.call(self._cut())

    # The server

    async def _start(self, port: int) -> None:
        app = web.Application(middlewares=[self._door])
        page = PageViews(await asyncio.to_thread(read_page))
        page.add_routes(app.router, lambda handler: handler)
        app.router.add_get("/", page.or_else(self._root))
        for path, answer in self._answers().items():
            app.router.add_get(path, self._view(answer))
        app.router.add_get("/admin/events", self._events)
        app.router.add_get("/admin/logs", self._logs)
        app.router.add_get("/admin/logs/{model:.+}", self._logs)
        app.router.add_get("/admin/activity", self._activity)
        app.router.add_get("/admin/activity/{id}/capture", self._view(lambda: {"answer": HOSTILE}))
        app.router.add_get("/admin/plan", self._plan)
        app.router.add_post("/admin/models/{model:.+}/{verb}", self._act)
        app.router.add_delete("/admin/requests/{id}", self._cancel)
        app.router.add_post("/admin/hub/pull", self._view(lambda: {"done": False}))
        app.router.add_post("/admin/reload", self._view(lambda: RELOAD))
        app.router.add_post("/v1/chat/completions", self._chat)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port).start()
        self.url = "http://{}:{}".format(*self._runner.addresses[0][:2])

    def _answers(self) -> dict[str, Callable[[], Any]]:
        return {
            "/v1/models": lambda: {"data": [{"id": one["name"], **one} for one in self.state["models"]]},
            "/v1/agents": lambda: {"data": [{"name": "rag", "description": "Answers from your documents"}]},
            "/admin/models": lambda: {"models": self.state["models"]},
            "/admin/keys": lambda: {"keys": KEYS},
            "/admin/usage": usage,
            "/v1/usage": usage,
            "/admin/config": lambda: {"config": CONFIG, "files": ["/etc/gateway/config.yaml"], "pending": []},
            "/admin/doctor": lambda: {"checks": CHECKS},
            "/admin/hub/search": lambda: HITS,
            "/admin/hub/files": lambda: FILES,
        }

    @web.middleware
    async def _door(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if self.is_away and request.transport is not None:
            request.transport.abort()
            return web.Response()
        if request.path.startswith("/admin"):
            self.asked.append(f"{request.method} {request.path_qs}")
        if request.path in self.missing:
            return _error(404, f"there is no {request.method} {request.path}", "not_found")
        if request.path == "/v1/models":
            await self._gathered.wait()
        if not self.is_admin and request.path.startswith("/admin"):
            return _error(403, "this needs an admin key: `key add NAME --admin`", "admin_key_needed")
        is_closed = self.key is not None and request.path.startswith(("/admin", "/v1"))
        if is_closed and request.headers.get("Authorization") != f"Bearer {self.key}":
            return _error(401, "an API key is needed", "missing_api_key")
        try:
            response: web.StreamResponse = await handler(request)
        except web.HTTPNotFound:
            return _error(404, f"there is no {request.method} {request.path}", "not_found")
        return response

    async def _root(self, _request: web.Request) -> web.Response:
        return web.Response(text="Ollama is running")

    def _view(self, answer: Callable[[], Any]) -> Any:
        async def handle(_request: web.Request) -> web.Response:
            return web.json_response(answer())

        return handle

    async def _events(self, request: web.Request) -> web.StreamResponse:
        self.cursors.append(request.headers.get("Last-Event-ID"))
        if self.is_cut and request.transport is not None:
            request.transport.abort()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await self._gathered.wait()
        snapshot = {**self.state, "downloads": [], "version": "0.9.0", "uptime_seconds": 93784.0}
        await response.write(self._encoded("snapshot", snapshot))
        self._streams.append(response)
        ended = asyncio.get_running_loop().create_future()
        try:
            await ended
        finally:
            if response in self._streams:
                self._streams.remove(response)
        return response

    def _encoded(self, event: str, data: Any) -> bytes:
        self._cursor += 1
        return f"id: {self._cursor}\nevent: {event}\ndata: {json.dumps(data)}\n\n".encode()

    async def _push(self, event: str, data: Any) -> None:
        for response in list(self._streams):
            await response.write(self._encoded(event, data))

    async def _end(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _cut(self) -> None:
        for response in list(self._streams):
            transport = response._req.transport if response._req is not None else None
            if transport is not None:
                transport.abort()
        self._streams.clear()

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        of_model = "model" in request.match_info
        for nth in range(400):
            line = (
                {"at": time.time() - 400 + nth, "line": f"srv  update_slots: all slots are idle ({nth})"}
                if of_model
                else {
                    "timestamp": time.time() - 400 + nth,
                    "level": ["info", "info", "debug", "warning"][nth % 4],
                    "event": "request",
                    "model": "qwen3-32b",
                    "status": 200,
                    "total_ms": 812.5 + nth,
                }
            )
            await response.write(json.dumps(line).encode() + b"\n")
        for line in self.lines:
            await response.write(json.dumps(line).encode() + b"\n")
        if request.query.get("follow"):
            await asyncio.get_running_loop().create_future()
        return response

    async def _activity(self, request: web.Request) -> web.Response:
        first = int(request.query.get("before", 0))
        limit = int(request.query.get("limit", 100))
        found = [
            row
            for row in self.rows
            if all(request.query.get(name) in (None, row[name]) for name in ("model", "key", "outcome"))
        ]
        page = found[first : first + limit]
        more = first + limit < len(found)
        return web.json_response({"requests": page, "next": str(first + limit) if more else None})

    async def _plan(self, request: web.Request) -> web.Response:
        context = int(request.query.get("ctx", 65536))
        if context > 200_000:
            return web.json_response(
                {
                    "model": request.query["model"],
                    "action": "refuse",
                    "evicts": [],
                    "load_seconds": 9.4,
                    "reason": "needs 31.2 GiB of one GPU, and the largest has 24 GiB",
                }
            )
        kv = int(context * 0.14 * (1 << 20))
        parts = {"weights": int(4.9 * GIB), "kv": kv, "compute": GIB // 3, "output": GIB // 64}
        total = sum(parts.values())
        answer = {
            "model": request.query["model"],
            "action": "make room",
            "reason": "it is the cheapest to load again",
            "load_seconds": 9.4,
            "placement": "whole",
            "why": "fits on one GPU",
            "context": context,
            "slot_context": context // int(request.query.get("parallel", 4)),
            "certainty": "exact",
            "evicts": [
                {
                    "model": "gemma3-4b",
                    "busy": False,
                    "requests": 0,
                    "frees": {"GPU-b": int(4.7 * GIB)},
                    "reload_seconds": 4.1,
                }
            ],
            "learned": {"by_loads": 0, "ran_out": 0},
            "gpus": [
                {
                    "index": 1,
                    "uuid": "GPU-b",
                    "name": "RTX 4090",
                    "size": 24 * GIB,
                    "free": 9 * GIB,
                    "overhead": GIB // 2,
                    "set_aside": total,
                    "layers": 36,
                    **parts,
                    "total": total,
                }
            ],
            "host": {
                "layers": 0,
                "free": 41 * GIB,
                "set_aside": GIB // 2,
                "weights": GIB // 4,
                "kv": 0,
                "compute": GIB // 16,
                "output": 0,
                "total": GIB // 3,
            },
            "arguments": ["--ctx-size", str(context)],
            "environment": {},
        }
        return web.json_response(answer)

    async def _act(self, request: web.Request) -> web.Response:
        name, verb = request.match_info["model"], request.match_info["verb"]
        found = next((one for one in self.state["models"] if one["name"] == name), None)
        if found is None:
            return _error(404, f"model {name!r} not found", "model_not_found")
        found.update({"load": {"state": "ready", "slots": 4}, "unload": {"state": "stopped"}}.get(verb, {}))
        found["pinned"] = {"pin": True, "unpin": False}.get(verb, found["pinned"])
        await self._push("model", found)
        return web.json_response(found, status=202)

    async def _cancel(self, request: web.Request) -> web.Response:
        gone = request.match_info["id"]
        await self._push("request_ended", {"id": gone, "outcome": "cancelled", "status": 503})
        return web.Response(status=204)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        question = str(body["messages"][-1]["content"])
        await response.write(b": 1st in the queue, about 2 s\n\n")
        pieces = [
            {"reasoning_content": "The user wants to know. "},
            {"content": "You said: "},
            {"content": question},
            {"content": "\n\n* one **bold** point\n* `code`\n\n```python\nprint(1)\n```\n"},
        ]
        for delta in pieces:
            await response.write(f"data: {json.dumps({'choices': [{'delta': delta}]})}\n\n".encode())
        end = {
            "choices": [{"delta": {}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 12, "completion_tokens": 34},
            "timings": {"predicted_per_second": 41.2, "predicted_n": 34, "prompt_n": 12},
        }
        await response.write(f"data: {json.dumps(end)}\n\ndata: [DONE]\n\n".encode())
        return response


def _error(status: int, message: str, code: str) -> web.Response:
    return web.json_response({"error": {"message": message, "type": "error", "code": code}}, status=status)


if __name__ == "__main__":
    print(StandIn().start(8899).url)
    threading.Event().wait()
