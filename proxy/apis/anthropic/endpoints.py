"""Anthropic's endpoints. llama.cpp has them too, but with differences that break official clients."""

from proxy.apis.anthropic import answer, request
from proxy.apis.anthropic.body import MessagesRequest
from proxy.apis.anthropic.client_errors import ANTHROPIC
from proxy.apis.interface import Api, Codec, Counter, Endpoint

MESSAGES = Codec(
    decode=request.decode_request,
    encoder=lambda asked: answer.Encoder(model=asked.model, request_id=asked.request_id),
    encode_answer=lambda whole, asked, _: answer.encode_answer(whole, model=asked.model),
)


def _ping(_model: str, words: str, _now: float) -> bytes:
    """Return a comment and a `ping` event. Clients time out without events, and ignore this one."""
    return f': {words}\nevent: ping\ndata: {{"type":"ping"}}\n\n'.encode()


ENDPOINTS = (
    Endpoint(
        path="/v1/messages",
        aliases=("/messages",),
        request=MessagesRequest,
        dialect=ANTHROPIC,
        api=None,
        codec=MESSAGES,
        comment=_ping,
    ),
    Endpoint(
        path="/v1/messages/count_tokens",
        aliases=("/messages/count_tokens",),
        request=MessagesRequest,
        dialect=ANTHROPIC,
        api=None,
        counter=Counter(decode=request.decode_prompt, encode_answer=lambda tokens: {"input_tokens": tokens}),
    ),
)

API = Api(dialect=ANTHROPIC, endpoints=ENDPOINTS)
