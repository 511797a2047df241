"""Answers Ollama's requests without a prompt, which load or unload a model."""

import time

import msgspec
from aiohttp import web

from proxy.answers.call import Conversation, ModelCaller
from proxy.answers.whole import json_response
from proxy.apis.ollama.answer import encode_load


async def answer(caller: ModelCaller, conversation: Conversation) -> web.StreamResponse:
    """Answer when the model is loaded or unloaded."""
    exchange, keep_alive = conversation.exchange, conversation.keep_alive
    await caller.keep(exchange, conversation.known.name, keep_alive)
    exchange.status = 200
    told = encode_load(
        "unload" if keep_alive == 0 else "load",
        conversation.parsed.model,
        now=time.time(),
        api="chat" if conversation.endpoint.path == "/api/chat" else "generate",
    )
    return json_response(msgspec.json.encode(told))
