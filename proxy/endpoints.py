"""The table of endpoints that a model serves: path, dialect, what is checked, how it is answered."""

from collections.abc import Callable
from typing import Any

import msgspec

from actors.messages import Api
from proxy.apis import endings, requests
from proxy.apis import table as codecs
from proxy.apis.assemble import (
    Assembler,
    ChatAssembler,
    CompletionAssembler,
    LineAssembler,
    MessageAssembler,
    NativeAssembler,
    ResponseAssembler,
)
from proxy.apis.dialects import ANTHROPIC, OLLAMA, OPENAI, RESPONSES, Dialect
from proxy.apis.endings import End
from proxy.apis.table import Codec, Embedder


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One POST endpoint. It generates, and can stream, if it has an `assembler`.

    A server that speaks `api` understands it as it is. For another one it is translated, if it can be.
    """

    path: str
    request: type[requests.ModelRequest]
    dialect: Dialect = OPENAI
    aliases: tuple[str, ...] = ()
    assembler: Callable[[Any], Assembler] | None = None
    slot: bool = True
    """Whether the work occupies one of the model's slots."""
    usage_option: bool = False
    """Whether usage must be asked for by `stream_options`."""
    api: Api = "llama.cpp"
    codec: Codec | None = None
    embedder: Embedder | None = None
    media_type: str = "text/event-stream"
    """Of its streams."""
    end: End = endings.OPENAI
    """Of its streams."""
    kinds: tuple[type, ...] = (dict,)
    """What JSON its whole answers are."""


def _native(request: Any) -> NativeAssembler:
    return NativeAssembler(return_tokens=bool(request.return_tokens))


ENDPOINTS = (
    Endpoint(
        path="/v1/chat/completions",
        aliases=("/chat/completions",),
        request=requests.ChatRequest,
        assembler=lambda _: ChatAssembler(),
        usage_option=True,
        codec=codecs.OPENAI_CHAT,
    ),
    Endpoint(
        path="/v1/completions",
        request=requests.CompletionRequest,
        assembler=lambda _: CompletionAssembler(),
        codec=codecs.OPENAI_COMPLETION,
    ),
    Endpoint(
        path="/v1/responses",
        aliases=("/responses",),
        request=requests.ResponsesRequest,
        dialect=RESPONSES,
        assembler=lambda _: ResponseAssembler(),
        end=endings.RESPONSES,
    ),
    Endpoint(
        path="/v1/messages",
        request=requests.MessagesRequest,
        dialect=ANTHROPIC,
        assembler=lambda _: MessageAssembler(),
        end=endings.ANTHROPIC,
        codec=codecs.ANTHROPIC_MESSAGES,
    ),
    Endpoint(
        path="/v1/messages/count_tokens",
        request=requests.MessagesRequest,
        dialect=ANTHROPIC,
        slot=False,
    ),
    Endpoint(
        path="/v1/embeddings",
        aliases=("/embeddings",),
        request=requests.EmbeddingsRequest,
        embedder=codecs.OPENAI_EMBEDDINGS,
    ),
    Endpoint(
        path="/v1/rerank",
        aliases=("/rerank", "/reranking", "/v1/reranking"),
        request=requests.RerankRequest,
        kinds=(dict, list),
    ),
    Endpoint(
        path="/completion",
        aliases=("/completions",),
        request=requests.CompletionRequest,
        assembler=_native,
        end=endings.NATIVE,
    ),
    Endpoint(path="/infill", request=requests.InfillRequest, assembler=_native, end=endings.NATIVE),
    Endpoint(path="/tokenize", request=requests.TokenizeRequest, slot=False),
    Endpoint(path="/detokenize", request=requests.DetokenizeRequest, slot=False),
    Endpoint(path="/apply-template", request=requests.TemplateRequest, slot=False),
    Endpoint(
        path="/api/chat",
        request=requests.OllamaChatRequest,
        dialect=OLLAMA,
        api="ollama",
        assembler=lambda _: LineAssembler(),
        codec=codecs.OLLAMA_CHAT,
        media_type="application/x-ndjson",
        end=endings.OLLAMA,
    ),
    Endpoint(
        path="/api/generate",
        request=requests.OllamaGenerateRequest,
        dialect=OLLAMA,
        api="ollama",
        assembler=lambda _: LineAssembler(),
        codec=codecs.OLLAMA_GENERATE,
        media_type="application/x-ndjson",
        end=endings.OLLAMA,
    ),
    Endpoint(
        path="/api/embed",
        request=requests.OllamaRequest,
        dialect=OLLAMA,
        api="ollama",
        embedder=codecs.OLLAMA_EMBED,
    ),
    Endpoint(
        path="/api/embeddings",
        request=requests.OllamaRequest,
        dialect=OLLAMA,
        api="ollama",
        embedder=codecs.OLLAMA_EMBEDDINGS,
    ),
)

PROBES = ("/props", "/slots")
"""GET endpoints of llama.cpp that tell about one model, named by `?model=`."""


def dialect_of(path: str) -> Dialect:
    """The dialect in which a path's errors are told, whether or not the path exists."""
    if path.startswith("/api/"):
        return OLLAMA
    if path == "/v1/messages" or path.startswith("/v1/messages/"):
        return ANTHROPIC
    return RESPONSES if path.endswith("/responses") else OPENAI
