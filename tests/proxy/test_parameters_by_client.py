"""The parameters that a model server gets, whatever API the client speaks."""

from typing import Any

import msgspec
import pytest

from actors.config.schema import Model, RequestSettings
from tests.proxy.scripted import (
    DONE,
    Do,
    Script,
    door,
    event,
    json_answer,
    request_body,
    said,
    scripted,
    streamed,
)

Json = dict[str, Any]
MODELS = {
    "demo": Model(
        path="x",
        request=RequestSettings(
            default={"top_k": 7, "seed": 7, "chat_template_kwargs": {"tone": "kind"}},
            set={"temperature": 0.5, "max_tokens": 9, "reasoning_effort": "none"},
            strip=["presence_penalty"],
        ),
    )
}
CHOICES = {"top_k": 3, "temperature": 1, "presence_penalty": 1}
CLIENTS: dict[str, Json] = {
    "/v1/chat/completions": {**CHOICES, "max_completion_tokens": 50, "reasoning_effort": "high"},
    "/v1/completions": {**CHOICES, "max_tokens": 50},
    "/completion": {**CHOICES, "n_predict": 50},
    "/infill": {**CHOICES, "n_predict": 50},
    "/v1/messages": {**CHOICES, "max_tokens": 50, "thinking": {"type": "enabled", "budget_tokens": 20}},
    "/v1/responses": {**CHOICES, "max_output_tokens": 50, "reasoning": {"effort": "high"}},
    "/api/chat": {"options": {**CHOICES, "num_predict": 50}},
    "/api/generate": {"prompt": "x", "options": {**CHOICES, "num_predict": 50}},
}
FINISHED = {"choices": [{"finish_reason": "stop", "index": 0, "delta": {}}]}
ANSWERS: dict[str, Script] = {
    "/v1/completions": streamed(
        event({"choices": [{"text": "a", "index": 0, "finish_reason": "stop"}]}), DONE
    ),
    **dict.fromkeys(("/completion", "/infill"), streamed(event({"content": "a", "stop": True}))),
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", CLIENTS)
async def test_each_client_gets_the_models_parameters(path: str, stream: bool) -> None:
    script = ANSWERS.get(path, streamed(said("a"), event(FINISHED), DONE))
    async with scripted(script) as server, door(server, models=MODELS) as opened:
        answer = await opened.post(path, stream=stream, **CLIENTS[path])
        assert answer.status == 200
        sent = server.requests[0].json
        assert (sent["top_k"], sent["temperature"], sent["seed"], sent["max_tokens"]) == (3, 0.5, 7, 9)
        assert sent.keys().isdisjoint(
            ["presence_penalty", "max_completion_tokens", "n_predict", "num_predict"]
        )
        assert sent["chat_template_kwargs"] == {"tone": "kind", "enable_thinking": False}
        assert "reasoning_effort" not in sent


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", [path for path in CLIENTS if path not in ("/completion", "/infill")])
async def test_ollamas_models_too(path: str, stream: bool) -> None:
    last = {"done": True, "done_reason": "stop", "message": {"content": "a"}, "response": "a"}
    lines = msgspec.json.encode({"model": "demo", **last}) + b"\n"
    script = [b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n"]
    script += [b"Content-Length: %d\r\n\r\n%b" % (len(lines), lines)]
    async with scripted(script) as server:
        server.endpoint = msgspec.structs.replace(server.endpoint, api="ollama", model="demo")
        async with door(server, models=MODELS) as opened:
            answer = await opened.post(path, stream=stream, **CLIENTS[path])
            assert answer.status == 200
            sent = server.requests[0].json
            assert (sent["options"]["top_k"], sent["options"]["seed"]) == (3, 7)
            assert (sent["options"]["temperature"], sent["options"]["num_predict"]) == (0.5, 9)
            assert "presence_penalty" not in sent["options"]
            assert sent.get("think") is (None if path == "/v1/completions" else False)


async def test_counting_a_prompt_and_other_endpoints() -> None:
    script: Script = [json_answer({"input_tokens": 5}), Do.NEXT, json_answer({"tokens": [1]})]
    async with scripted(script) as server, door(server, models=MODELS) as opened:
        assert (await opened.post("/v1/messages/count_tokens")).json == {"input_tokens": 5}
        assert server.requests[0].json["chat_template_kwargs"] == {"tone": "kind", "enable_thinking": False}
        assert (await opened.post("/tokenize")).status == 200
        assert server.requests[1].json == request_body("/tokenize")
