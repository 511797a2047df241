"""Converts a model server's failure between its event, `AnswerFailed`, and its exception, `ApiError`.

In an API's folder, `server_errors` reads a server's errors, and `client_errors` writes them for a client.
"""

import re

import msgspec

from agents.events import AnswerFailed
from proxy.errors import ApiError, default_kind

TOO_LONG = "context_length_exceeded"
"""The `code` of errors for a prompt or a text that exceeds the model's context."""

_OUT_OF_RANGE = "vector::_M_range_check: "
"""The beginning of llama.cpp's message for a token that the vocabulary does not have."""

_CLIENT_FAULTS: tuple[tuple[str, str | None, tuple[str, ...]], ...] = (
    (
        "invalid_value",
        None,
        (
            "Jinja Exception",
            "While executing ",
            "Failed to parse messages",
            "Failed to parse tool call arguments",
            "Cannot have 2 or more assistant messages",
            "must contain 'content'",
            "must contain either 'content'",
            "Expected 'content'",
            "unsupported content[]",
        ),
    ),
    (
        "unsupported_value",
        None,
        (
            "input is not supported - hint",
            "does not support multimodal",
            "missing data required for image input",
            "only supports one image",
        ),
    ),
    (
        "invalid_image",
        None,
        (
            "Failed to load image",
            "Failed to download image",
            "Invalid base64",
            "Invalid uri",
            "uri must be base64",
            "file:// URLs",
            "file path is not allowed",
            "image: unknown format",
            "decode WebP image",
        ),
    ),
    ("invalid_value", "tools", ("Failed to parse tools", "tools param requires")),
    ("invalid_value", "tool_choice", ("Invalid tool_choice", "tool_choice param requires")),
    ("invalid_value", "format", ("invalid format: ",)),
    ("invalid_type", "options", ('" must be of type ',)),
    ("invalid_value", "top_logprobs", ("top_logprobs requires",)),
    ("unsupported_value", "logprobs", ("logprobs is not supported with",)),
    (
        "invalid_json_schema",
        None,
        ("JSON schema error", "parse grammar", "invalid JSON schema", "custom grammar constraints"),
    ),
    (
        TOO_LONG,
        None,
        (
            "exceeds the available context size",
            "exceed the available context size",
            "Context size has been exceeded",
            "too large to process",
            "larger than the max context size",
            "exceeds the context length",
            "exceeds maximum context length",
            "longer than the context length",
        ),
    ),
    ("invalid_type", None, ("[json.exception.",)),
    ("invalid_value", "tokens", (_OUT_OF_RANGE,)),
    (
        "not_supported",
        "model",
        ("does not support embeddings", "does not support reranking", "Infill is not supported"),
    ),
)
"""The gateway's `code` and `param`, and parts of model servers' messages about invalid requests.

Model servers often send them with status 500. A `param` of None means the prompt. Messages about a failed
answer or about the machine are not listed: those are the server's fault.
"""

_FIELD = re.compile(r"^Field '(\w+)': ")
"""The beginning of llama.cpp's messages that name a field of the body."""

_TOKENS = re.compile(r"\((\d+) tokens\).*?(?:context size|batch size:?) \(?(\d+)")
"""The part of llama.cpp's messages with a prompt's length and its limit, in tokens."""

_SOURCE = re.compile(
    r"\A(?:Unable to generate parser for this template\. Automatic parser generation failed: )?"
    r"(?:\s*-*\s*While executing .*^Error: (?:Jinja Exception: )?)?"
    r"|; tools = .*\Z",
    re.DOTALL | re.MULTILINE,
)
"""The parts of a message that do not help a client: the place in the chat template, and the list of tools."""


def truncated(needed: str) -> AnswerFailed:
    """Return the failure for a stream that ended in the middle of its answer. `needed`: the missing part."""
    message = f"the model server's answer ended in the middle, without {needed}"
    return AnswerFailed(502, message, code="upstream_error")


def empty() -> AnswerFailed:
    """Return the failure for a complete stream without an answer."""
    return AnswerFailed(502, "the model server's stream ended with no answer in it", code="upstream_error")


def unreadable(error: Exception) -> AnswerFailed:
    """Return the failure for a stream that cannot be parsed."""
    return AnswerFailed(502, f"the model server sent what cannot be read: {error}", code="upstream_error")


def to_api_error(failure: AnswerFailed) -> ApiError:
    """Return the exception for a failure."""
    error = ApiError(failure.status, failure.message, code=failure.code, param=failure.param)
    error.kind = failure.kind or error.kind
    error.extra = dict(failure.extra)
    return error


def of_api_error(error: ApiError) -> AnswerFailed:
    """Return the failure for an exception."""
    return AnswerFailed(error.status, error.message, error.kind, error.code, error.param, dict(error.extra))


def blamed(failure: AnswerFailed) -> AnswerFailed:
    """Return the failure, with status 400, `code` and `param` if its message blames the request."""
    if failure.status not in (400, 500, 501):
        return failure
    message, extra = failure.message, dict(failure.extra)
    field = _FIELD.match(message)
    known = next(
        ((code, param) for code, param, words in _CLIENT_FAULTS if any(word in message for word in words)),
        None,
    )
    if known is None and field is None:
        return failure
    code, param = known or ("invalid_value", None)
    if code == TOO_LONG and (tokens := _TOKENS.search(message)):
        extra = {"n_prompt_tokens": int(tokens[1]), "n_ctx": int(tokens[2]), **extra}
        if "batch size" in message:  # a client cannot increase the batch size
            message = f"the text has {tokens[1]} tokens, and the model reads {tokens[2]} at most"
    if message.startswith(_OUT_OF_RANGE):
        message = "a token is not one of the model's vocabulary"
    if code == "not_supported":  # a client cannot start another server
        message = message.partition(" Start it")[0].replace("This server", "this model")
    return msgspec.structs.replace(
        failure,
        status=400,
        message=_SOURCE.sub("", message),
        kind=default_kind(400),
        code=failure.code or code,
        param=failure.param or (field[1] if field else param),
        extra=extra,
    )
