"""The tables of translation: what each API's clients say, and what each kind of server is told. Pure."""

from collections.abc import Callable
from functools import partial

import msgspec

from actors.messages import Api, ServerAddress
from agents.chat import Chat, Completion
from agents.events import Answer, AnswerFailed
from proxy.apis import embeddings, failures
from proxy.apis.anthropic import answer as anthropic_answer
from proxy.apis.anthropic import request as anthropic_request
from proxy.apis.codec import Decoder, Encoder
from proxy.apis.embeddings import Embed, Embeddings
from proxy.apis.fields import Json
from proxy.apis.llama_cpp import server as llama_server
from proxy.apis.ollama import answer as ollama_answer
from proxy.apis.ollama import request as ollama_request
from proxy.apis.ollama import server as ollama_server
from proxy.apis.openai import answer as openai_answer
from proxy.apis.openai import completion as openai_completion
from proxy.apis.openai import request as openai_request

Request = Chat | Completion


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer needs to know of its request; `started` in seconds since the epoch."""

    model: str
    request_id: str
    started: float
    load_seconds: float
    include_usage: bool = False


class Codec(msgspec.Struct, frozen=True, kw_only=True):
    """How clients of a generating endpoint speak. `decode` raises `FieldError`."""

    decode: Callable[[bytes], Request]
    encoder: Callable[[Asked], Encoder]
    encode_answer: Callable[[Answer, Asked, float], Json]
    """Takes the time, too, in seconds since the epoch."""


class Embedder(msgspec.Struct, frozen=True, kw_only=True):
    """How clients of an endpoint of embeddings speak. `decode` raises `FieldError`."""

    decode: Callable[[bytes], Embed]
    encode_answer: Callable[[Embeddings, Embed, Asked, float], Json]


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """How a kind of model server is spoken with. `ask` and `embed` give a path and a body."""

    ask: Callable[[Request, ServerAddress], tuple[str, bytes]]
    decoder: Callable[[str], Decoder]
    embed: Callable[[Embed, ServerAddress], tuple[str, bytes]]
    decode_embeddings: Callable[[bytes], Embeddings | AnswerFailed]
    failure: Callable[[bytes, int], AnswerFailed]
    media_type: str
    """Of its streams."""


# Clients

OPENAI_CHAT = Codec(
    decode=openai_request.decode_request,
    encoder=lambda asked: openai_answer.Encoder(model=asked.model, include_usage=asked.include_usage),
    encode_answer=lambda answer, asked, _: openai_answer.encode_answer(answer, model=asked.model),
)
OPENAI_COMPLETION = Codec(
    decode=openai_completion.decode_request,
    encoder=lambda asked: openai_completion.Encoder(model=asked.model, include_usage=asked.include_usage),
    encode_answer=lambda answer, asked, _: openai_completion.encode_answer(answer, model=asked.model),
)
ANTHROPIC_MESSAGES = Codec(
    decode=anthropic_request.decode_request,
    encoder=lambda asked: anthropic_answer.Encoder(model=asked.model, request_id=asked.request_id),
    encode_answer=lambda answer, asked, _: anthropic_answer.encode_answer(answer, model=asked.model),
)


def _ollama(api: ollama_answer.Api, decode: Callable[[bytes], Request]) -> Codec:
    def encoder(asked: Asked) -> Encoder:
        return ollama_answer.Encoder(
            asked.model,
            api=api,
            started=asked.started,
            load_seconds=asked.load_seconds,
            context=api == "generate",
        )

    def encode_answer(answer: Answer, asked: Asked, now: float) -> Json:
        return ollama_answer.encode_answer(
            answer,
            asked.model,
            now=now,
            api=api,
            started=asked.started,
            load_seconds=asked.load_seconds,
            context=api == "generate",
        )

    return Codec(decode=decode, encoder=encoder, encode_answer=encode_answer)


OLLAMA_CHAT = _ollama("chat", ollama_request.decode_chat)
OLLAMA_GENERATE = _ollama("generate", ollama_request.decode_generate)

OPENAI_EMBEDDINGS = Embedder(
    decode=embeddings.decode_openai,
    encode_answer=lambda answer, embed, _asked, _now: embeddings.encode_openai_answer(answer, embed),
)
OLLAMA_EMBED = Embedder(
    decode=embeddings.decode_embed,
    encode_answer=lambda answer, _embed, asked, now: embeddings.encode_ollama_answer(
        answer, asked.model, seconds=now - asked.started, load=asked.load_seconds
    ),
)
OLLAMA_EMBEDDINGS = Embedder(
    decode=embeddings.decode_embeddings,
    encode_answer=lambda answer, _embed, _asked, _now: embeddings.encode_ollama_legacy_answer(answer),
)

# Servers


def _ask_llama_server(request: Request, _address: ServerAddress) -> tuple[str, bytes]:
    return llama_server.path_of(request), llama_server.encode_request(request)


def _ask_ollama(request: Request, address: ServerAddress) -> tuple[str, bytes]:
    if isinstance(request, Chat) and not address.thinks:
        request = msgspec.structs.replace(request, think=None)  # it would be an error; llama.cpp takes it
    loaded = ollama_server.as_loaded(request, address.model or request.model, dict(address.options))
    return ollama_server.path_of(request), ollama_server.encode_request(loaded)


def _embed_in_ollama(request: Embed, address: ServerAddress) -> tuple[str, bytes]:
    body = embeddings.encode_ollama(request)
    model = address.model or request.model
    return "/api/embed", ollama_server.rewritten(body, model, dict(address.options))


SERVERS: dict[Api, Server] = {
    "llama.cpp": Server(
        ask=_ask_llama_server,
        decoder=lambda _: llama_server.Decoder(),
        embed=lambda request, _: ("/v1/embeddings", embeddings.encode_openai(request)),
        decode_embeddings=embeddings.decode_openai_answer,
        failure=failures.from_openai_body,
        media_type="text/event-stream",
    ),
    "ollama": Server(
        ask=_ask_ollama,
        decoder=partial(ollama_server.Decoder),
        embed=_embed_in_ollama,
        decode_embeddings=embeddings.decode_ollama_answer,
        failure=failures.from_ollama,
        media_type="application/x-ndjson",
    ),
}
