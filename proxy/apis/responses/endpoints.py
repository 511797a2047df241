"""The endpoint that models answer. Those for stored responses are in `proxy.handlers.responses`."""

from proxy.apis.interface import Api, Codec, Counter, Endpoint
from proxy.apis.responses import answer, request
from proxy.apis.responses.body import ResponsesRequest
from proxy.apis.responses.client_errors import RESPONSES

CODEC = Codec(
    decode=request.decode_request,
    encoder=answer.Encoder,
    encode_answer=answer.encode_answer,
)

INPUT_TOKENS = Counter(
    decode=request.decode_request,
    encode_answer=lambda tokens: {"object": "response.input_tokens", "input_tokens": tokens},
)

ENDPOINTS = (
    Endpoint(
        path="/v1/responses",
        aliases=("/responses",),
        request=ResponsesRequest,
        dialect=RESPONSES,
        api=None,
        codec=CODEC,
    ),
    Endpoint(
        path="/v1/responses/input_tokens",
        aliases=("/responses/input_tokens",),
        request=ResponsesRequest,
        dialect=RESPONSES,
        api=None,
        counter=INPUT_TOKENS,
    ),
)

API = Api(dialect=RESPONSES, endpoints=ENDPOINTS)
