"""The Responses' endpoint that generates."""

from proxy.apis.interface import Api, Codec, Endpoint
from proxy.apis.responses import answer, request
from proxy.apis.responses.body import ResponsesRequest
from proxy.apis.responses.client_errors import RESPONSES

CODEC = Codec(
    decode=request.decode_request,
    encoder=answer.Encoder,
    encode_answer=answer.encode_answer,
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
)

API = Api(dialect=RESPONSES, endpoints=ENDPOINTS)
