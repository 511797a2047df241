"""Writes the object around an answer's items: repeated fields of the request, status, usage, errors."""

import base64
import binascii
from typing import Any

from agents.events import AnswerFailed, Reason, Usage
from proxy.apis.fields import Json

_SEAL = "readable:"

_DEFAULTS: Json = {
    "background": False,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": "default",
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": None,
    "truncation": "disabled",
    "user": None,
}
"""The fields that an answer repeats, with their values for a request without them."""

REPEATED = frozenset(_DEFAULTS)
"""The fields of a request that its answer repeats."""

INCOMPLETE: dict[Reason, str] = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""OpenAI's `incomplete_details.reason`, by the finish reasons that leave an answer incomplete."""


def repeated(fields: Json) -> Json:
    """Return the fields that an answer repeats, given the request's fields."""
    given = {name: fields[name] for name in REPEATED if fields.get(name) is not None}
    given |= {name: _DEFAULTS[name] | given[name] for name in ("reasoning", "text") if name in given}
    if given.get("service_tier") == "auto":
        given["service_tier"] = "default"
    return _DEFAULTS | given


def head(repeats: Json, model: str, token: str, created: int) -> Json:
    """Return the response object at the beginning of an answer, without output and usage."""
    return {
        "id": f"resp_{token}",
        "object": "response",
        "created_at": created,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "model": model,
        "output": [],
        "usage": None,
        **(repeats or _DEFAULTS),
    }


def usage_fields(usage: Usage, thought: float) -> Json:
    """Return the usage. `thought` is the share of the text that is reasoning, from 0 to 1.

    Model servers do not count tokens of reasoning: their number is estimated by that share.
    """
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": 0},
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": round(usage.completion * thought)},
        "total_tokens": usage.prompt + usage.completion,
    }


def error_fields(failure: AnswerFailed) -> Json:
    """Return the error of a failed response. OpenAI's list of codes is closed, and has no better ones."""
    code = "server_error" if failure.status >= 500 else "invalid_prompt"
    code = "rate_limit_exceeded" if failure.status == 429 else code
    return {
        "code": code,
        "message": failure.message,
        "param": failure.param,
        "type": failure.code or failure.kind,
    }


def sealed(text: str) -> str:
    """Return reasoning as `encrypted_content`, for clients that send nothing else back.

    It is encoded, not encrypted: the client may read it.
    """
    return _SEAL + base64.b64encode(text.encode()).decode()


def unsealed(value: Any) -> str:
    """Return the reasoning in an `encrypted_content`; "" if the gateway did not write it."""
    if not isinstance(value, str) or not value.startswith(_SEAL):
        return ""
    try:
        return base64.b64decode(value.removeprefix(_SEAL), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""
