"""Checks a body of `/v1/responses` before a model is loaded."""

import msgspec

from proxy.apis.requests import ModelRequest, Number, check_limit


class ResponsesRequest(ModelRequest, kw_only=True):
    """A request to `/v1/responses`. `request` checks all other fields, also before the model is loaded."""

    prompt_field = "input"

    max_output_tokens: Number = None
    tools: list[msgspec.Raw] | None = None
    store: bool | None = None
    background: bool | None = None
    previous_response_id: str | None = None

    @property
    def answer_limit(self) -> float | None:
        """`max_output_tokens`."""
        return self.max_output_tokens

    def check(self) -> None:
        """Raise `FieldError` for an invalid `max_output_tokens`."""
        check_limit("max_output_tokens", self.max_output_tokens)

    def field_of(self, code: str | None) -> str | None:
        """Return the field that caused an error with this code, for errors that name no field."""
        if code == "invalid_json_schema":
            return "tools" if self.tools else "text.format"
        return super().field_of(code)
