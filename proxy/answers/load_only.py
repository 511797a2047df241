"""Answers requests without a prompt, which load or unload a model, as Ollama's API has them."""

import time
from collections.abc import Callable
from typing import Literal

import msgspec
from aiohttp import web

from proxy.answers.call import Conversation, ModelCaller
from proxy.answers.whole import json_response
from proxy.apis.fields import Json


async def answer(
    caller: ModelCaller,
    conversation: Conversation,
    encode: Callable[[Literal["load", "unload"], str, float], Json],
) -> web.StreamResponse:
    """Answer when the model is loaded or unloaded."""
    exchange, keep_alive = conversation.exchange, conversation.keep_alive
    await caller.keep(exchange, conversation.known.name, keep_alive)
    exchange.status = 200
    reason: Literal["load", "unload"] = "unload" if keep_alive == 0 else "load"
    return json_response(msgspec.json.encode(encode(reason, conversation.parsed.model, time.time())))
