"""Answers requests for embeddings, for any API of the client and of the model's server."""

import time
from collections.abc import Sequence

import msgspec
from aiohttp import web

from actors.messages import ServerAddress
from agents.events import AnswerFailed
from proxy.answers import unchanged
from proxy.answers.call import (
    Conversation,
    ModelCaller,
    UpstreamRequest,
    check_gives_vectors,
    named,
    post,
)
from proxy.answers.translate import answer_context
from proxy.answers.whole import json_response
from proxy.apis.answer_json import UnreadableError
from proxy.apis.embeddings import Embed, Embeddings, Tokens, cut, shortened
from proxy.apis.fields import FieldError
from proxy.apis.interface import Embedder, Tokenizer
from proxy.apis.requests import invalid_field
from proxy.apis.server_errors import TOO_LONG, to_api_error
from proxy.apis.table import SERVERS
from proxy.catalog import Known
from proxy.errors import ApiError
from proxy.exchange import Exchange
from proxy.wire.upstream_connection import BadAnswerError

MOST_SPECIAL = 8
"""Most tokens that a model adds to a text. Apart from those, no text has more tokens than bytes."""

CROWDED = "Context size has been exceeded"
"""llama.cpp's message when the texts in its slots together have more tokens than their shared cache."""


async def answer(caller: ModelCaller, conversation: Conversation, embedder: Embedder) -> web.StreamResponse:
    """Answer a request for vectors. The body is passed on unchanged if the server speaks the client's API."""
    exchange, known = conversation.exchange, conversation.known
    try:
        embed = embedder.decode(conversation.body)
        if embed.unchanged and conversation.speaks_its_api:
            try:
                return await unchanged.answer(caller, conversation)
            except ApiError as error:
                if not _is_crowded(error):
                    raise
        vectors = Embeddings([])
        if not embed.inputs:
            await caller.keep(exchange, known.name, embed.keep_alive)
        else:
            vectors = shortened(await Vectors(caller, exchange, known).of(embed), embed.dimensions)
            exchange.first_byte()
            exchange.tokens = {"prompt_tokens": vectors.prompt}
    except FieldError as error:
        raise invalid_field(error) from None
    except ApiError as error:
        if error.code == TOO_LONG:
            error.message = embedder.too_long or error.message
        raise
    exchange.status = 200
    asked = answer_context(exchange, embed.model)
    told = embedder.encode_answer(vectors, embed, asked, time.time())
    return json_response(msgspec.json.encode(told))


class Vectors:
    """A model's vectors for one request."""

    def __init__(self, caller: ModelCaller, exchange: Exchange, known: Known) -> None:
        self._caller = caller
        self._exchange = exchange
        self._model = known.name
        self._tokenizer = SERVERS[known.api].tokenizer

    async def of(self, embed: Embed) -> Embeddings:
        """One for each text; one that is too long is cut if the request wants that.

        Raises `ApiError`, `FieldError`, or `BadAnswerError` if there are more vectors or less.
        """
        for spared in (0, 1):  # some servers take as many tokens as they say, others one less
            try:
                return await self._ask(embed)
            except ApiError as error:
                if _is_crowded(error):
                    return await self._one_by_one(embed)
                limit = error.extra.get("n_ctx")
                if not embed.truncate or error.code != TOO_LONG or not isinstance(limit, int):
                    raise
                if self._tokenizer is None:
                    raise
                inputs = await self._cut(embed.inputs, limit - spared, self._tokenizer)
                embed = msgspec.structs.replace(embed, inputs=inputs)
        return await self._ask(embed)

    async def _one_by_one(self, embed: Embed) -> Embeddings:
        """Each text has the whole cache then, unless somebody else's text needs it at that moment."""
        if len(embed.inputs) == 1:
            message = "other texts take the model's whole cache at the moment; try again"
            raise ApiError(503, message, code="unavailable", retry_after=1)
        vectors, prompt = [], 0
        for text in embed.inputs:
            found = await self.of(msgspec.structs.replace(embed, inputs=[text]))
            vectors += found.vectors
            prompt += found.prompt
        return Embeddings(vectors, prompt)

    async def _ask(self, embed: Embed) -> Embeddings:
        def render(address: ServerAddress) -> bytes:
            check_gives_vectors(address)
            path, body = SERVERS[address.api].embed(embed, address)
            return post(self._exchange, path, body, address)

        question = UpstreamRequest(self._model, render, keep_alive=embed.keep_alive)
        async with self._caller.call(self._exchange, question) as call:
            vectors = call.server.decode_embeddings(await call.collect())
            if isinstance(vectors, AnswerFailed):
                raise named(to_api_error(vectors), self._exchange)
            if (wanted := len(embed.inputs)) != len(vectors.vectors):
                message = f"the model server gave {len(vectors.vectors)} vectors for {wanted} texts"
                raise BadAnswerError(message)
            return vectors

    async def _cut(
        self, inputs: Sequence[str | Tokens], limit: int, tokenizer: Tokenizer
    ) -> list[str | Tokens]:
        """Return the texts; those of more than `limit` tokens are converted to tokens and cut."""
        frame = await self._tokens_of("", tokenizer)
        found: list[str | Tokens] = []
        for text in inputs:
            if isinstance(text, str) and len(text.encode()) + MOST_SPECIAL <= limit:
                found.append(text)
            else:
                found.append(cut(await self._tokens_of(text, tokenizer), limit, frame))
        return found

    async def _tokens_of(self, text: str | Tokens, tokenizer: Tokenizer) -> Tokens:
        def render(address: ServerAddress) -> bytes:
            return post(self._exchange, tokenizer.path, tokenizer.encode(text), address)

        question = UpstreamRequest(self._model, render, slot=False)
        async with self._caller.call(self._exchange, question) as call:
            try:
                return tokenizer.decode(await call.collect())
            except UnreadableError as error:
                raise BadAnswerError(f"the model server's tokens make no sense: {error}") from None


def _is_crowded(error: ApiError) -> bool:
    """Whether texts were too long together: of one that is too long alone, its server says by how much."""
    return error.code == TOO_LONG and "n_ctx" not in error.extra and CROWDED in error.message
