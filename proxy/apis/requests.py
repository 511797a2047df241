"""Request bodies: what is checked before a model is loaded, and the few fields the gateway sets itself.

Only the fields that every API client agrees on are typed, and loosely; everything else is the model
server's business and passes through untouched, byte for byte.
"""

from typing import Any, TypeVar

import msgspec

from proxy.apis.fields import FieldError, NotJsonError, decode
from proxy.errors import ApiError

Object = dict[str, msgspec.Raw]
Number = float | None
Text = str | None


class ModelRequest(msgspec.Struct):
    """Any request that names a model."""

    model: str
    stream: bool | None = None


class GenerationRequest(ModelRequest):
    """What the generating endpoints have in common."""

    temperature: Number = None
    top_p: Number = None
    top_k: Number = None
    max_tokens: Number = None
    seed: Number = None
    return_progress: bool | None = None
    stop: str | list[str] | None = None


class ChatRequest(GenerationRequest, kw_only=True):
    """`/v1/chat/completions`."""

    messages: list[Object]
    max_completion_tokens: Number = None
    n: Number = None
    presence_penalty: Number = None
    frequency_penalty: Number = None
    tools: list[Object] | None = None
    response_format: Object | None = None
    stream_options: Object | None = None


class CompletionRequest(GenerationRequest, kw_only=True):
    """`/v1/completions`, and llama.cpp's `/completion`."""

    prompt: Any
    return_tokens: bool | None = None
    stream_options: Object | None = None


class InfillRequest(GenerationRequest, kw_only=True):
    """llama.cpp's `/infill`."""

    input_prefix: str
    input_suffix: str
    return_tokens: bool | None = None


class ResponsesRequest(GenerationRequest, kw_only=True):
    """`/v1/responses`."""

    input: str | list[msgspec.Raw]
    instructions: Text = None
    max_output_tokens: Number = None
    tools: list[Object] | None = None


class MessagesRequest(ModelRequest, kw_only=True):
    """Anthropic's `/v1/messages` and `/v1/messages/count_tokens`."""

    messages: list[Object]
    max_tokens: Number = None
    temperature: Number = None
    top_p: Number = None
    top_k: Number = None
    system: str | list[Object] | None = None
    stop_sequences: list[str] | None = None
    tools: list[Object] | None = None


class EmbeddingsRequest(ModelRequest, kw_only=True):
    """`/v1/embeddings`."""

    input: str | list[Any]


class RerankRequest(ModelRequest, kw_only=True):
    """`/v1/rerank`."""

    query: str
    documents: list[Any]
    top_n: Number = None


class TokenizeRequest(ModelRequest, kw_only=True):
    """llama.cpp's `/tokenize`."""

    content: Any


class DetokenizeRequest(ModelRequest, kw_only=True):
    """llama.cpp's `/detokenize`."""

    tokens: list[int]


class OllamaRequest(ModelRequest, kw_only=True):
    """Any of Ollama's requests for an answer."""

    keep_alive: Any = None
    options: dict[str, Any] | None = None


class OllamaChatRequest(OllamaRequest, kw_only=True):
    """`/api/chat`."""

    stream: bool | None = True
    messages: list[Object] | None = None

    @property
    def says_anything(self) -> bool:
        """Without, it only wishes the model loaded, or let go."""
        return bool(self.messages)


class OllamaGenerateRequest(OllamaRequest, kw_only=True):
    """`/api/generate`."""

    stream: bool | None = True
    prompt: str | None = None

    @property
    def says_anything(self) -> bool:
        """Without, it only wishes the model loaded, or let go."""
        return bool(self.prompt)


class TemplateRequest(ModelRequest, kw_only=True):
    """llama.cpp's `/apply-template`."""

    messages: list[Object]


R = TypeVar("R", bound=msgspec.Struct)


def parse_body(body: bytes, kind: type[R]) -> R:
    """Check a body's JSON and the fields that are typed. Raises `ApiError`."""
    try:
        return decode(body, kind)
    except NotJsonError as error:
        raise ApiError(400, str(error), code="invalid_json") from None
    except FieldError as error:
        raise ApiError(400, str(error), param=error.field) from None


def with_fields(body: bytes, fields: dict[str, bytes]) -> bytes:
    """`body` with some top-level fields set to JSON values; the rest keeps its exact bytes."""
    values = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    for name, value in fields.items():
        values[name] = msgspec.Raw(value)
    return msgspec.json.encode(values)
