"""The table of endpoints that a model serves: path, dialect, what is checked, how it is answered."""

from collections.abc import Callable
from typing import Any

import msgspec

from proxy import requests
from proxy.assemble import (
    Assembler,
    ChatAssembler,
    CompletionAssembler,
    MessageAssembler,
    NativeAssembler,
    ResponseAssembler,
)
from proxy.dialects import ANTHROPIC, OPENAI, RESPONSES, Dialect


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One POST endpoint. It generates, and can stream, if it has an `assembler`."""

    path: str
    request: type[requests.ModelRequest]
    dialect: Dialect = OPENAI
    aliases: tuple[str, ...] = ()
    assembler: Callable[[Any], Assembler] | None = None
    slot: bool = True
    """Whether the work occupies one of the model's slots."""
    usage_option: bool = False
    """Whether usage must be asked for by `stream_options`."""


def _native(request: Any) -> NativeAssembler:
    return NativeAssembler(return_tokens=bool(request.return_tokens))


ENDPOINTS = (
    Endpoint(
        path="/v1/chat/completions",
        aliases=("/chat/completions",),
        request=requests.ChatRequest,
        assembler=lambda _: ChatAssembler(),
        usage_option=True,
    ),
    Endpoint(
        path="/v1/completions",
        request=requests.CompletionRequest,
        assembler=lambda _: CompletionAssembler(),
    ),
    Endpoint(
        path="/v1/responses",
        aliases=("/responses",),
        request=requests.ResponsesRequest,
        dialect=RESPONSES,
        assembler=lambda _: ResponseAssembler(),
    ),
    Endpoint(
        path="/v1/messages",
        request=requests.MessagesRequest,
        dialect=ANTHROPIC,
        assembler=lambda _: MessageAssembler(),
    ),
    Endpoint(
        path="/v1/messages/count_tokens",
        request=requests.MessagesRequest,
        dialect=ANTHROPIC,
        slot=False,
    ),
    Endpoint(path="/v1/embeddings", aliases=("/embeddings",), request=requests.EmbeddingsRequest),
    Endpoint(
        path="/v1/rerank",
        aliases=("/rerank", "/reranking", "/v1/reranking"),
        request=requests.RerankRequest,
    ),
    Endpoint(
        path="/completion", aliases=("/completions",), request=requests.CompletionRequest, assembler=_native
    ),
    Endpoint(path="/infill", request=requests.InfillRequest, assembler=_native),
    Endpoint(path="/tokenize", request=requests.TokenizeRequest, slot=False),
    Endpoint(path="/detokenize", request=requests.DetokenizeRequest, slot=False),
    Endpoint(path="/apply-template", request=requests.TemplateRequest, slot=False),
)

PROBES = ("/props", "/slots")
"""GET endpoints of llama.cpp that tell about one model, named by `?model=`."""


def dialect_of(path: str) -> Dialect:
    """The dialect in which a path's errors are told, whether or not the path exists."""
    if path == "/v1/messages" or path.startswith("/v1/messages/"):
        return ANTHROPIC
    return RESPONSES if path.endswith("/responses") else OPENAI
