"""Enforces a model's guards where no agents run: bypassing paths, and bodies that generate nothing."""

from typing import Any

import msgspec

from agents.errors import AgentError
from agents.guard.strings import clean_value
from agents.host.host import AgentHost
from proxy.apis.fields import FieldError, decode
from proxy.apis.requests import invalid_field
from proxy.door.bodies import breathe
from proxy.errors import ApiError

_MAY_BE_TOKENS = ("input", "content", "prompt")
"""Fields of text in which llama.cpp also accepts token ids, even mixed with text."""


def refuse_to_go_around(agents: AgentHost, model: str, path: str) -> None:
    """Raise `ApiError` if this path would bypass a model's guards."""
    if guards := agents.guards_of(model):
        message = (
            f"model {model!r} is only served with the agent {guards[0]!r}, which {path} would go around; "
            "use /v1/chat/completions, /v1/messages or /api/chat"
        )
        raise ApiError(403, message, code="agent_required", param="model")


async def guard_body(agents: AgentHost, model: str, body: bytes, request_id: str) -> bytes:
    """Pass a JSON body for an endpoint that generates nothing through the model's guards.

    Raises `ApiError` if a guard refuses it.
    """
    texts: list[str] = []

    def collect(text: str) -> str:
        texts.append(text)
        return text

    try:
        fields = decode(body, dict[str, Any])
        kept = {"model": fields.pop("model", None)}
        _refuse_tokens(model, fields)
        clean_value(fields, collect)
        await breathe(body)
        passed = iter(await agents.guard_texts(model, texts, request_id=request_id))
        await breathe(body)
        return msgspec.json.encode(kept | clean_value(fields, lambda _: next(passed)))
    except AgentError as error:
        raise of_agent(error) from None
    except FieldError as error:
        raise invalid_field(error) from None
    except RecursionError:
        raise ApiError(400, "the body is nested too deeply") from None


def _refuse_tokens(model: str, fields: dict[str, Any]) -> None:
    """Raise `ApiError` if a text is given as token ids, which no pattern can match."""
    for name in _MAY_BE_TOKENS:
        if _has_numbers(fields.get(name)):
            message = f"the guards of model {model!r} cannot read token ids in {name!r}; send the text"
            raise ApiError(403, message, code="agent_required", param=name)


def _has_numbers(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    kinds = set(map(type, value))
    return not kinds.isdisjoint((int, float)) or (list in kinds and any(map(_has_numbers, value)))


def of_agent(error: AgentError) -> ApiError:
    """Convert an agent's error for the client."""
    return ApiError(
        error.status, error.message, code=error.code, param=error.param, retry_after=error.retry_after
    )
