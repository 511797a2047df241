"""Ollama's endpoints, and an Ollama daemon as a server."""

from collections.abc import Callable
from functools import partial

import msgspec

from actors.messages import ServerAddress
from actors.model_names import ollama_name
from agents.chat import Chat
from proxy.apis.embeddings import Embed
from proxy.apis.interface import AnswerContext, Api, Codec, Embedder, Endpoint, Request, ServerApi
from proxy.apis.ollama import answer, embeddings, request, server
from proxy.apis.ollama import server_errors as failures
from proxy.apis.ollama.body import OllamaChatRequest, OllamaGenerateRequest, OllamaRequest
from proxy.apis.ollama.client_errors import OLLAMA, TOO_LONG_TEXT
from proxy.apis.ollama.stream import STREAM_END, LineAssembler


def _codec(api: answer.Api, decode: Callable[[bytes], Request]) -> Codec:
    def encoder(asked: AnswerContext) -> answer.Encoder:
        return answer.Encoder(
            asked.model,
            api=api,
            started=asked.started,
            load_seconds=asked.load_seconds,
            turns=asked.echo.get("turns"),
        )

    return Codec(
        decode=decode,
        encoder=encoder,
        encode_answer=lambda whole, asked, now: encoder(asked).encode_answer(whole, now),
    )


def _comment(api: answer.Api, model: str, _words: str, now: float) -> bytes:
    """Return a line with an empty text, since lines of JSON have no comments."""
    return answer.encode_waiting(model, now=now, api=api)


CHAT = _codec("chat", request.decode_chat)
GENERATE = _codec("generate", request.decode_generate)
EMBED = Embedder(
    decode=embeddings.decode_embed,
    encode_answer=lambda vectors, _embed, asked, now: embeddings.encode_answer(
        vectors, asked.model, seconds=now - asked.started, load=asked.load_seconds
    ),
    too_long=TOO_LONG_TEXT,
)
EMBEDDINGS = Embedder(
    decode=embeddings.decode_embeddings,
    encode_answer=lambda vectors, _embed, _asked, _now: embeddings.encode_legacy_answer(vectors),
    too_long=TOO_LONG_TEXT,
)

ENDPOINTS = (
    Endpoint(
        path="/api/chat",
        request=OllamaChatRequest,
        dialect=OLLAMA,
        api="ollama",
        any_media_type=True,
        assembler=lambda _: LineAssembler(),
        codec=CHAT,
        media_type="application/x-ndjson",
        comment=partial(_comment, "chat"),
        load_answer=partial(answer.encode_load, "chat"),
        stream_end=STREAM_END,
    ),
    Endpoint(
        path="/api/generate",
        request=OllamaGenerateRequest,
        dialect=OLLAMA,
        api="ollama",
        any_media_type=True,
        assembler=lambda _: LineAssembler(),
        codec=GENERATE,
        media_type="application/x-ndjson",
        comment=partial(_comment, "generate"),
        load_answer=partial(answer.encode_load, "generate"),
        stream_end=STREAM_END,
    ),
    Endpoint(
        path="/api/embed",
        request=OllamaRequest,
        dialect=OLLAMA,
        api="ollama",
        any_media_type=True,
        embedder=EMBED,
    ),
    Endpoint(
        path="/api/embeddings",
        request=OllamaRequest,
        dialect=OLLAMA,
        api="ollama",
        any_media_type=True,
        embedder=EMBEDDINGS,
    ),
)


def _ask(asked: Request, address: ServerAddress) -> tuple[str, bytes]:
    if isinstance(asked, Chat) and not address.thinks:
        asked = msgspec.structs.replace(asked, think=None)  # a daemon would refuse it; llama.cpp does not
    loaded = server.as_loaded(asked, address.model or asked.model, dict(address.options))
    return server.path_of(asked), server.encode_request(loaded)


def _ignored(asked: Request, address: ServerAddress) -> list[str]:
    is_thoughtless = isinstance(asked, Chat) and asked.think and not address.thinks
    return [*server.ignored(asked), *(["reasoning"] if is_thoughtless else [])]


def _rewrite(body: bytes, asked: str, address: ServerAddress) -> bytes:
    if (own_name := address.model) is None:
        return body
    # The daemon answers with the name in the request.
    name = asked if ollama_name(asked) == ollama_name(own_name) else own_name
    return server.rewritten(body, name, dict(address.options))


def _count(asked: Chat, address: ServerAddress) -> tuple[str, bytes]:
    return _ask(server.shortest(asked), address)


def _embed(asked: Embed, address: ServerAddress) -> tuple[str, bytes]:
    body = embeddings.encode_request(asked)
    return "/api/embed", server.rewritten(body, address.model or asked.model, dict(address.options))


SERVER = ServerApi(
    name="ollama",
    ask=_ask,
    decoder=server.Decoder,
    rewrite=_rewrite,
    embed=_embed,
    decode_embeddings=embeddings.decode_answer,
    count=_count,
    decode_count=server.decode_count,
    count_reads=True,
    failure=failures.from_body,
    media_type="application/x-ndjson",
    ignored=_ignored,
)

API = Api(dialect=OLLAMA, endpoints=ENDPOINTS, prefixes=("/api",), server=SERVER)
