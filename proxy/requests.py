"""Request bodies: what is checked before a model is loaded, and the few fields the gateway sets itself.

Only the fields that every API client agrees on are typed, and loosely; everything else is the model
server's business and passes through untouched, byte for byte.
"""

from typing import Any, TypeVar

import msgspec
from aiohttp import web

from proxy.errors import ApiError
from proxy.translate.wire import located

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


async def read_body(request: web.Request, limit: int, *, any_type: bool = False) -> bytes:
    """Read a JSON request's body. Raises `ApiError` for a wrong type or size.

    `any_type`: it is JSON whatever its head says, as Ollama takes it; curl says that it is a form.
    """
    content_type = request.headers.get("Content-Type")
    if content_type is not None and not any_type:
        media = content_type.partition(";")[0].strip().lower()
        if media != "application/json" and not (media.startswith("application/") and media.endswith("+json")):
            raise ApiError(
                415, f"the body must be JSON, with Content-Type: application/json, and not {media[:100]!r}"
            )
    if (request.content_length or 0) > limit:
        raise too_large(limit)
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise too_large(limit) from None


def too_large(limit: int) -> ApiError:
    """The answer to a body over the limit of `limit` bytes."""
    message = f"the body is larger than {limit // 2**20} MiB (server.max_body_mb)"
    return ApiError(413, message, code="request_too_large")


def parse_body(body: bytes, kind: type[R]) -> R:
    """Check a body's JSON and the fields that are typed. Raises `ApiError`."""
    try:
        body.decode()
        return msgspec.json.decode(body, type=kind)
    except UnicodeDecodeError as error:
        raise ApiError(400, f"the body is not UTF-8: {error.reason} at byte {error.start}") from None
    except msgspec.ValidationError as error:
        message, path, missing = located(error)
        where = f"{path}: " if path else ""
        raise ApiError(400, f"{where}{message}", param=path or missing) from None
    except msgspec.DecodeError as error:
        raise ApiError(400, f"the body is not valid JSON: {error}", code="invalid_json") from None
    except RecursionError:
        raise ApiError(400, "the body's JSON is nested too deeply", code="invalid_json") from None


def with_fields(body: bytes, fields: dict[str, bytes]) -> bytes:
    """`body` with some top-level fields set to JSON values; the rest keeps its exact bytes."""
    values = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    for name, value in fields.items():
        values[name] = msgspec.Raw(value)
    return msgspec.json.encode(values)
