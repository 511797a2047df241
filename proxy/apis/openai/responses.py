"""OpenAI's Responses: their body, errors and streams. They are never translated."""

import msgspec

from proxy.apis.assemble import UnfinishedError, load
from proxy.apis.fields import Json
from proxy.apis.interface import Dialect
from proxy.apis.openai.client_errors import OPENAI
from proxy.apis.openai.server_errors import from_error
from proxy.apis.requests import GenerationRequest, Number, Object, Text
from proxy.apis.stream_end import StreamEnd
from proxy.errors import ApiError
from proxy.wire.sse import ServerSentEvent


class ResponsesRequest(GenerationRequest, kw_only=True):
    """`/v1/responses`."""

    input: str | list[msgspec.Raw]
    instructions: Text = None
    max_output_tokens: Number = None
    tools: list[Object] | None = None


def _frame(error: ApiError, _request_id: str) -> bytes:
    data = {"type": "error", "code": error.code or error.kind, "message": error.message, "param": error.param}
    return b"event: error\ndata: " + msgspec.json.encode(data) + b"\n\n"


RESPONSES = Dialect("responses", OPENAI.body, _frame)

STREAM_END = StreamEnd(
    "the event that ends it",
    lambda event: event.type in ("response.completed", "response.incomplete", "response.failed"),
    failure=from_error,
    named_errors=True,
)


class ResponseAssembler:
    """Events of the Responses API to a response: the last event carries it."""

    def __init__(self) -> None:
        self._response: Json = {}

    def feed(self, event: ServerSentEvent) -> None:
        """Take the next event."""
        if (data := load(event)) is None:
            return
        if data.get("type") in ("response.completed", "response.incomplete", "response.failed"):
            self._response = data["response"]

    def result(self) -> Json:
        """The whole response, with what llama.cpp leaves out of the streamed one."""
        response = self._response
        if not response:
            raise UnfinishedError("the event that ends it")
        response.setdefault("completed_at", response.get("created_at"))
        for item in response.get("output", ()):
            item.setdefault("status", "completed")
        return response
