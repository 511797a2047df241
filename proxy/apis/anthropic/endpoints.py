"""Anthropic's endpoints."""

from proxy.apis.anthropic import answer, request
from proxy.apis.anthropic.body import MessagesRequest
from proxy.apis.anthropic.client_errors import ANTHROPIC
from proxy.apis.anthropic.stream import STREAM_END, MessageAssembler
from proxy.apis.interface import Api, Codec, Endpoint

MESSAGES = Codec(
    decode=request.decode_request,
    encoder=lambda asked: answer.Encoder(model=asked.model, request_id=asked.request_id),
    encode_answer=lambda whole, asked, _: answer.encode_answer(whole, model=asked.model),
)

ENDPOINTS = (
    Endpoint(
        path="/v1/messages",
        aliases=("/messages",),
        request=MessagesRequest,
        dialect=ANTHROPIC,
        api="llama.cpp",
        assembler=lambda _: MessageAssembler(),
        codec=MESSAGES,
        stream_end=STREAM_END,
    ),
    Endpoint(
        path="/v1/messages/count_tokens",
        aliases=("/messages/count_tokens",),
        request=MessagesRequest,
        dialect=ANTHROPIC,
        api="llama.cpp",
        slot=False,
    ),
)

API = Api(dialect=ANTHROPIC, endpoints=ENDPOINTS)
