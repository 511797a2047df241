"""Answers requests for embeddings, for any API of the client and of the model's server."""

import time

import msgspec
from aiohttp import web

from actors.messages import ServerAddress
from agents.events import AnswerFailed
from proxy.answers import unchanged
from proxy.answers.call import (
    Conversation,
    ModelCall,
    ModelCaller,
    UpstreamRequest,
    invalid_field,
    named,
    post,
)
from proxy.answers.translate import answer_context
from proxy.answers.whole import json_response
from proxy.apis.embeddings import Embed, Embeddings, shortened
from proxy.apis.fields import FieldError
from proxy.apis.interface import Embedder
from proxy.apis.server_errors import to_api_error
from proxy.apis.table import SERVERS
from proxy.exchange import Exchange
from proxy.wire.upstream_connection import BadAnswerError


async def answer(caller: ModelCaller, conversation: Conversation, embedder: Embedder) -> web.StreamResponse:
    """Answer a request for vectors, in the server's own words if it speaks the client's API."""
    exchange, known = conversation.exchange, conversation.known
    try:
        embed = embedder.decode(conversation.body)
    except FieldError as error:
        raise invalid_field(error) from None
    if embed.inputs and conversation.speaks_its_api:
        return await unchanged.answer(caller, conversation)
    vectors = Embeddings([])
    if not embed.inputs:
        await caller.keep(exchange, known.name, embed.keep_alive)
    else:
        async with caller.call(exchange, vectors_question(exchange, known.name, embed)) as call:
            vectors = await collect_vectors(call, len(embed.inputs))
        exchange.first_byte()
        exchange.tokens = {"prompt_tokens": vectors.prompt}
    exchange.status = 200
    asked = answer_context(exchange, embed.model)
    told = embedder.encode_answer(shortened(vectors, embed.dimensions), embed, asked, time.time())
    return json_response(msgspec.json.encode(told))


def vectors_question(exchange: Exchange, model: str, embed: Embed) -> UpstreamRequest:
    """Render a request for embeddings in the API of the leased server."""

    def render(address: ServerAddress) -> bytes:
        path, body = SERVERS[address.api].embed(embed, address)
        return post(exchange, path, body, address)

    return UpstreamRequest(model, render, keep_alive=embed.keep_alive)


async def collect_vectors(call: ModelCall, wanted: int) -> Embeddings:
    """Read the vectors of `count` texts.

    Raises `ApiError`, or `BadAnswerError` for another number of vectors.
    """
    vectors = call.server.decode_embeddings(await call.collect())
    if isinstance(vectors, AnswerFailed):
        raise named(to_api_error(vectors), call.exchange)
    if len(vectors.vectors) != wanted:
        message = f"the model server gave {len(vectors.vectors)} vectors for {wanted} texts"
        raise BadAnswerError(message)
    return vectors
