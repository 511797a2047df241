"""Checks Anthropic's bodies before a model is loaded."""

from typing import ClassVar

from proxy.apis.fields import FieldError
from proxy.apis.requests import ModelRequest, Number, Object, check_limit


class MessagesRequest(ModelRequest, kw_only=True):
    """A request to Anthropic's `/v1/messages` or `/v1/messages/count_tokens`."""

    prompt_field: ClassVar[str | None] = "messages"

    messages: list[Object]
    max_tokens: Number = None
    temperature: Number = None
    top_p: Number = None
    top_k: Number = None
    system: str | list[Object] | None = None
    stop_sequences: list[str] | None = None
    tools: list[Object] | None = None

    def check(self) -> None:
        """Raise `FieldError` for what Anthropic's API refuses.

        That is: no message, an invalid `max_tokens`, an empty stop sequence.
        """
        if not self.messages:
            raise FieldError("messages", "at least one message is required")
        check_limit("max_tokens", self.max_tokens)
        if "" in (self.stop_sequences or ()):
            raise FieldError("stop_sequences", "an empty text would end each answer at once", "empty_string")

    @property
    def answer_limit(self) -> float | None:
        """`max_tokens`."""
        return self.max_tokens
