"""OpenAI's endpoints."""

from proxy.apis.interface import Api, Codec, Embedder, Endpoint
from proxy.apis.openai import answer, completion, embeddings, request
from proxy.apis.openai.body import (
    CompletionRequest,
    EmbeddingsRequest,
    RerankRequest,
)
from proxy.apis.openai.chat_body import ChatRequest
from proxy.apis.openai.client_errors import OPENAI
from proxy.apis.openai.stream import STREAM_END, ChatAssembler, CompletionAssembler

CHAT = Codec(
    decode=request.decode_request,
    encoder=lambda asked: answer.Encoder(model=asked.model, include_usage=asked.include_usage),
    encode_answer=lambda whole, asked, _: answer.encode_answer(whole, model=asked.model),
)
COMPLETION = Codec(
    decode=completion.decode_request,
    encoder=lambda asked: completion.Encoder(model=asked.model, include_usage=asked.include_usage),
    encode_answer=lambda whole, asked, _: completion.encode_answer(whole, model=asked.model),
    reasons=False,
)
EMBEDDINGS = Embedder(
    decode=embeddings.decode_request,
    encode_answer=lambda vectors, embed, _asked, _now: embeddings.encode_answer(vectors, embed),
)

ENDPOINTS = (
    Endpoint(
        path="/v1/chat/completions",
        aliases=("/chat/completions",),
        request=ChatRequest,
        dialect=OPENAI,
        api="llama.cpp",
        assembler=lambda request: ChatAssembler(request.answers),
        usage_option=True,
        codec=CHAT,
        stream_end=STREAM_END,
    ),
    Endpoint(
        path="/v1/completions",
        aliases=("/completions",),
        request=CompletionRequest,
        dialect=OPENAI,
        api="llama.cpp",
        assembler=lambda request: CompletionAssembler(request.answers),
        codec=COMPLETION,
        stream_end=STREAM_END,
    ),
    Endpoint(
        path="/v1/embeddings",
        aliases=("/embeddings",),
        request=EmbeddingsRequest,
        dialect=OPENAI,
        api="llama.cpp",
        embedder=EMBEDDINGS,
        subject="input",
    ),
    Endpoint(
        path="/v1/rerank",
        aliases=("/rerank", "/reranking", "/v1/reranking"),
        request=RerankRequest,
        dialect=OPENAI,
        api="llama.cpp",
        subject="documents",
        kinds=(dict, list),
    ),
)

API = Api(dialect=OPENAI, endpoints=ENDPOINTS)
