"""Counts the tokens of a prompt, for any API of the client and of the model's server."""

import msgspec
from aiohttp import web

from actors.messages import ServerAddress
from agents.chat import Chat
from agents.events import AnswerFailed
from proxy.answers.call import Conversation, ModelCaller, UpstreamRequest, named, post
from proxy.answers.whole import json_response
from proxy.apis.fields import FieldError
from proxy.apis.interface import Counter
from proxy.apis.requests import invalid_field, without_lines_in
from proxy.apis.server_errors import to_api_error
from proxy.apis.table import SERVERS
from proxy.errors import ApiError
from proxy.exchange import Exchange
from proxy.parameters import with_parameters


async def answer(caller: ModelCaller, conversation: Conversation, counter: Counter) -> web.StreamResponse:
    """Answer how many tokens a prompt has. Raises `ApiError`."""
    exchange = conversation.exchange
    try:
        chat = without_lines_in(counter.decode(conversation.body))
    except FieldError as error:
        raise invalid_field(error) from None
    if not chat.messages:
        raise ApiError(400, "messages: is empty", param="messages")
    exchange.ignore(chat.ignored)
    tokens = await _count(caller, exchange, _question(conversation, chat))
    exchange.first_byte()
    exchange.status = 200
    return json_response(msgspec.json.encode(counter.encode_answer(tokens)))


def _question(conversation: Conversation, chat: Chat) -> UpstreamRequest:
    exchange, known = conversation.exchange, conversation.known
    chat = with_parameters(chat, known.request)

    def render(address: ServerAddress) -> bytes:
        try:
            path, body = SERVERS[address.api].count(chat, address)
        except FieldError as error:
            raise invalid_field(error) from None
        return post(exchange, path, body, address)

    slot = SERVERS[known.api].count_reads
    return UpstreamRequest(known.name, render, slot=slot, keep_alive=chat.keep_alive)


async def _count(caller: ModelCaller, exchange: Exchange, question: UpstreamRequest) -> int:
    try:
        async with caller.call(exchange, question) as call:
            tokens = call.server.decode_count(await call.collect())
            if isinstance(tokens, AnswerFailed):
                call.lease.served = False
                raise named(to_api_error(tokens), exchange)
            return tokens
    except ApiError as error:
        # A client counts to learn whether its prompt is too long, so that is no error here.
        length = error.extra.get("n_prompt_tokens")
        if error.code == "context_length_exceeded" and isinstance(length, int):
            return length
        raise
