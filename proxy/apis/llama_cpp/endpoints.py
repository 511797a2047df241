"""llama.cpp's own endpoints, and llama.cpp as a model server. Its errors have OpenAI's form."""

from typing import Any

from proxy.apis.interface import Api, Endpoint, ServerApi, Tokenizer
from proxy.apis.llama_cpp import embeddings, server
from proxy.apis.llama_cpp.body import (
    DetokenizeRequest,
    InfillRequest,
    NativeRequest,
    TemplateRequest,
    TokenizeRequest,
)
from proxy.apis.llama_cpp.stream import STREAM_END, NativeAssembler
from proxy.apis.openai import server_errors as failures
from proxy.apis.openai.client_errors import OPENAI


def _native(request: Any) -> NativeAssembler:
    return NativeAssembler(return_tokens=bool(request.return_tokens))


ENDPOINTS = (
    Endpoint(
        path="/completion",
        request=NativeRequest,
        dialect=OPENAI,
        api="llama.cpp",
        assembler=_native,
        stream_end=STREAM_END,
    ),
    Endpoint(
        path="/infill",
        request=InfillRequest,
        dialect=OPENAI,
        api="llama.cpp",
        assembler=_native,
        stream_end=STREAM_END,
    ),
    Endpoint(path="/tokenize", request=TokenizeRequest, dialect=OPENAI, api="llama.cpp", slot=False),
    Endpoint(path="/detokenize", request=DetokenizeRequest, dialect=OPENAI, api="llama.cpp", slot=False),
    Endpoint(path="/apply-template", request=TemplateRequest, dialect=OPENAI, api="llama.cpp", slot=False),
)

PROBES = ("/props", "/slots")
"""Paths of GET endpoints that describe one model, named by `?model=`."""

SERVER = ServerApi(
    name="llama.cpp",
    ask=lambda request, _: (server.path_of(request), server.encode_request(request)),
    decoder=lambda _id, _request: server.Decoder(),
    tokenizer=Tokenizer(
        path="/tokenize", encode=embeddings.encode_tokenize, decode=embeddings.decode_tokenized
    ),
    embed=lambda request, _: ("/v1/embeddings", embeddings.encode_request(request)),
    decode_embeddings=embeddings.decode_answer,
    count=lambda chat, _: (server.COUNT_PATH, server.encode_request(chat)),
    decode_count=server.decode_count,
    failure=failures.from_body,
    media_type="text/event-stream",
)

API = Api(dialect=OPENAI, endpoints=ENDPOINTS, server=SERVER)
