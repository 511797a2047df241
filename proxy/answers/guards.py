"""What agents forbid: ways around a model's guards, and bodies that generate nothing."""

from typing import Any

import msgspec

from agents.errors import AgentError
from agents.guard.strings import clean_value
from agents.host.host import AgentHost
from proxy.answers.call import invalid_field
from proxy.apis.fields import FieldError, decode
from proxy.door.bodies import breathe
from proxy.errors import ApiError


def refuse_to_go_around(host: AgentHost, model: str, path: str) -> None:
    """Raise `ApiError` if a model has agents for all its requests that this path would go around."""
    if guards := host.guards_of(model):
        message = (
            f"model {model!r} is only served with the agent {guards[0]!r}, which {path} would go around; "
            "use /v1/chat/completions, /v1/messages or /api/chat"
        )
        raise ApiError(403, message, code="agent_required", param="model")


async def guard_body(host: AgentHost, model: str, body: bytes, request_id: str) -> bytes:
    """A JSON body for an endpoint that generates nothing, as the guards of the model's requests leave it.

    Raises `ApiError` if they refuse it.
    """
    texts: list[str] = []

    def collect(text: str) -> str:
        texts.append(text)
        return text

    try:
        fields = decode(body, dict[str, Any])
        kept = {"model": fields.pop("model", None)}
        clean_value(fields, collect)
        await breathe(body)
        passed = iter(await host.guard_texts(model, texts, request_id=request_id))
        await breathe(body)
        return msgspec.json.encode(kept | clean_value(fields, lambda _: next(passed)))
    except AgentError as error:
        raise of_agent(error) from None
    except FieldError as error:
        raise invalid_field(error) from None
    except RecursionError:
        raise ApiError(400, "the body is nested too deeply") from None


def of_agent(error: AgentError) -> ApiError:
    """What an agent says no with, as the client is told."""
    return ApiError(
        error.status, error.message, code=error.code, param=error.param, retry_after=error.retry_after
    )
