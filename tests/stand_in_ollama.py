"""A stand-in for an Ollama daemon: `python -m tests.stand_in_ollama --port N [--model NAME] [--do X]`.

Held against transcripts of a real one (August 2026). In tests it is a context; it can be told to misbehave by
its attributes, or by orders: busy, fail-load, error-early, error-mid-stream, die-mid-stream, endless-line,
no-done, repeat, endless, garbage, redirect, refuse-unload, silent (all but /api/version), fail-pull,
half-pull.
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from aiohttp import web

from tests.stand_in_ollama_base import Base, Loaded
from tests.stand_in_ollama_store import (
    BadRequestError,
    Model,
    answer,
    full_name,
    go_time,
    nanoseconds,
    read_body,
    runner_error,
    text_of,
    tokens_in,
)

UNEXPECTED = "an error was encountered while running the model: unexpected EOF"


@contextlib.contextmanager
def used(loaded: Loaded) -> Iterator[None]:
    """It cannot be unloaded meanwhile, and its time begins afterwards."""
    loaded.active += 1
    try:
        yield
    finally:
        loaded.active -= 1
        loaded.expires_at = time.time() + loaded.keep


class StandInOllama(Base):
    """The daemon while the `async with` block lasts; `stop` and `start` again to restart it on its port."""

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """All that answers or changes something."""
        router.add_delete("/api/delete", self._delete)
        router.add_post("/api/me", self._me)
        router.add_head("/api/blobs/{digest}", self._has_blob)
        router.add_post("/api/blobs/{digest}", self._add_blob)
        for name in ("chat", "generate", "pull", "copy", "create"):
            router.add_post(f"/api/{name}", getattr(self, f"_{name}"))

    async def _stream(self, request: web.Request, lines: AsyncIterator[dict[str, Any]]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        async for line in lines:
            if line.get("die"):
                assert request.transport is not None
                request.transport.abort()
                break
            text = line.get("raw") or json.dumps(line, separators=(",", ":"), ensure_ascii=False) + "\n"
            await response.write(text.encode())
        return response

    async def _me(self, _request: web.Request) -> web.Response:
        return self.json({"error": "unauthorized", "signin_url": "https://ollama.com/connect"}, 401)

    # Answers

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._generation(request, "ChatRequest")

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        return await self._generation(request, "GenerateRequest")

    async def _generation(self, request: web.Request, struct: str) -> web.StreamResponse:
        began = time.perf_counter()
        chat = struct == "ChatRequest"
        body = read_body(await request.read(), struct)
        wanted = body.get("model") or ""
        if chat and not wanted:
            raise BadRequestError("model is required")
        if (name := self.find(wanted)) is None:
            return self.error(404, f"model '{wanted}' not found")
        self.check(name, wanted, body)
        text = text_of(body, chat)
        if text is None and self.keep_alive(body) == 0:
            if running := self.running(name):
                self.loaded[running].keep = 0.0
            return self.json(self._line(wanted, chat, done="unload"))
        if "completion" not in self.models[name].capabilities:
            raise BadRequestError(f'"{wanted}" does not support {"chat" if chat else "generate"}')
        loaded = await self.load(name, body)
        if text is None:
            return self.json(self._line(wanted, chat, done="load"))
        if "error-early" in self.orders:
            return self.error(500, UNEXPECTED)
        if refused := runner_error(body, self.models[name], loaded.context):
            return self.error(*refused)
        lines = self._lines(wanted, name, text, body, chat, began, loaded)
        if body.get("stream") is not False:
            return await self._stream(request, lines)
        return await self._whole([line async for line in lines], chat)

    async def _whole(self, lines: list[dict[str, Any]], chat: bool) -> web.Response:
        last = lines[-1] if lines else {}
        if not last.get("done"):
            return self.error(500, last.get("error", UNEXPECTED))
        whole = dict(last)
        if not chat:
            whole["response"] = "".join(line["response"] for line in lines)
        else:
            parts = [line["message"] for line in lines]
            message: dict[str, Any] = {
                "role": "assistant",
                "content": "".join(part["content"] for part in parts),
            }
            if thinking := "".join(part.get("thinking", "") for part in parts):
                message["thinking"] = thinking
            if calls := [call for part in parts for call in part.get("tool_calls", [])]:
                message["tool_calls"] = calls
            whole["message"] = message
        return self.json(whole)

    @staticmethod
    def _line(
        model: str, chat: bool, text: str = "", *, done: str = "", message: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        line: dict[str, Any] = {"model": model, "created_at": go_time(time.time())}
        extra = message or {}
        line |= (
            {"message": {"role": "assistant", "content": text, **extra}}
            if chat
            else {"response": text, **extra}
        )
        line["done"] = bool(done)
        return {**line, "done_reason": done} if done else line

    async def _lines(
        self,
        wanted: str,
        name: str,
        text: str,
        body: dict[str, Any],
        chat: bool,
        began: float,
        loaded: Loaded,
    ) -> AsyncIterator[dict[str, Any]]:
        words, calls = answer(wanted, text, body)
        limit = (body.get("options") or {}).get("num_predict", -1)
        cut = 0 <= limit < len(words)
        words = words[:limit] if cut else words
        load_time = nanoseconds(began)
        with used(loaded):
            if "thinking" in self.models[name].capabilities and body.get("think") is not False:
                for word in ("Let", " me", " think."):
                    yield self._line(wanted, chat, message={"thinking": word})
            for number, word in enumerate(words):
                if number == 2 and (wrong := self.misbehaviour()):
                    yield wrong
                    return
                await asyncio.sleep(self.word_seconds)
                yield self._line(wanted, chat, word)
            if "repeat" in self.orders:
                for _ in range(31):
                    yield self._line(wanted, chat, " again")
                return
            if "no-done" in self.orders:
                return
            message = {"tool_calls": calls} if calls else None
            last = self._line(wanted, chat, done="length" if cut else "stop", message=message)
            counts = {"total_duration": nanoseconds(began), "load_duration": load_time}
            counts |= {"prompt_eval_count": tokens_in(body), "prompt_eval_duration": 1_000_000}
            counts |= {"eval_count": len(words) or 1, "eval_duration": 2_000_000}
            yield last | ({} if chat else {"context": [1, 2, 3]}) | counts

    def misbehaviour(self) -> dict[str, Any] | None:
        """What comes instead of the third word."""
        if "error-mid-stream" in self.orders:
            return {"error": UNEXPECTED}
        if "die-mid-stream" in self.orders:
            return {"die": True}
        return {"raw": "x" * (32 << 20)} if "endless-line" in self.orders else None

    # Its store

    async def _pull(self, request: web.Request) -> web.StreamResponse:
        body = read_body(await request.read(), "PullRequest")
        wanted = body.get("model") or body.get("name")
        if not wanted:
            raise BadRequestError("invalid model name")
        lines = self._pulled(full_name(wanted))
        if body.get("stream") is not False:
            return await self._stream(request, lines)
        last = [line async for line in lines][-1]
        return self.error(500, last["error"]) if "error" in last else self.json(last)

    async def _pulled(self, name: str) -> AsyncIterator[dict[str, Any]]:
        yield {"status": "pulling manifest"}
        if name not in self.remote and name not in self.models:
            yield {"error": "pull model manifest: file does not exist"}
            return
        model = self.remote.get(name) or self.models[name]
        digest = f"sha256:{model.digest(name)}"
        line = {"status": f"pulling {digest[7:19]}", "digest": digest, "total": model.size}
        self.arrived.set()
        for quarter in range(5):
            yield line | ({"completed": model.size * quarter // 4} if quarter else {})
            if quarter == 2:
                if self.gate is not None:
                    await self.gate.wait()
                if wrong := self.misbehaviour():
                    yield wrong
                    return
                if "fail-pull" in self.orders:
                    yield {"error": "write /models/blobs: no space left on device"}
                    return
                if "half-pull" in self.orders:
                    return
        for status in ("verifying sha256 digest", "writing manifest"):
            yield {"status": status}
        self.models[name] = model
        yield {"status": "success"}

    async def _delete(self, request: web.Request) -> web.Response:
        body = read_body(await request.read(), "DeleteRequest")
        wanted = body.get("model") or body.get("name", "")
        if (name := self.find(wanted)) is None:
            return self.error(404, f"model '{wanted}' not found")
        del self.models[name]
        return web.Response()

    async def _copy(self, request: web.Request) -> web.Response:
        body = read_body(await request.read(), "CopyRequest")
        if (name := self.find(body.get("source") or "")) is None:
            return self.error(404, f'model "{body.get("source")}" not found')
        self.models[full_name(body["destination"])] = self.models[name]
        return web.Response()

    async def _create(self, request: web.Request) -> web.StreamResponse:
        body = read_body(await request.read(), "CreateRequest")
        name = full_name(body.get("model") or body.get("name") or "")
        if not body.get("from") and not body.get("files"):
            raise BadRequestError("neither 'from' or 'files' was specified")

        async def lines() -> AsyncIterator[dict[str, Any]]:
            parent = self.find(body["from"]) if body.get("from") else None
            for digest in (body.get("files") or {}).values():
                yield {"status": "parsing GGUF"}
                if digest not in self.blobs:
                    yield {"error": f"open /models/blobs/{digest}: no such file or directory"}
                    return
            if body.get("from") and parent is None:
                yield {"error": "pull model manifest: file does not exist"}
                return
            given = {key: body[key] for key in ("system", "template", "parameters") if key in body}
            size = sum(len(self.blobs[blob]) for blob in (body.get("files") or {}).values())
            base: dict[str, Any] = vars(self.models[parent]) if parent else {"size": size}
            self.models[name] = Model(**(base | {"parent": parent or ""} | given))
            digest = self.models[name].digest(name)
            for status in (f"creating new layer sha256:{digest}", "writing manifest", "success"):
                yield {"status": status}

        if body.get("stream") is not False:
            return await self._stream(request, lines())
        last = [line async for line in lines()][-1]
        return self.error(500, last["error"]) if "error" in last else self.json(last)

    async def _has_blob(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if request.match_info["digest"] in self.blobs else 404)

    async def _add_blob(self, request: web.Request) -> web.Response:
        data, digest = await request.read(), request.match_info["digest"]
        if f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
            raise BadRequestError("digest mismatch, file must be downloaded again")
        self.blobs[digest] = data
        return web.Response(status=201)


async def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    for flag in ("--model", "--remote", "--do"):
        parser.add_argument(flag, action="append", default=[])
    for flag in ("--load-seconds", "--word-seconds"):
        parser.add_argument(flag, type=float, default=0.0)
    parser.add_argument("--thinking-model", action="append", default=[])
    told = parser.parse_args()
    thinks = Model(capabilities=["completion", "tools", "thinking"])
    daemon = StandInOllama(
        models={full_name(name): Model() for name in told.model or ["tiny"]}
        | {full_name(name): thinks for name in told.thinking_model},
        remote={full_name(name): Model() for name in told.remote},
        orders=set(told.do),
        load_seconds=told.load_seconds,
        word_seconds=told.word_seconds,
        port=told.port,
    )
    await daemon.start()
    print(f"listening on {daemon.url}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main())
