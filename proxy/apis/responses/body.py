"""What is checked of a body of the Responses before a model is loaded."""

import msgspec

from proxy.apis.requests import ModelRequest, Number, check_limit


class ResponsesRequest(ModelRequest, kw_only=True):
    """`/v1/responses`. `request` checks all the rest before the model is asked for."""

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
        """Raise `FieldError` for a limit that is none."""
        check_limit("max_output_tokens", self.max_output_tokens)

    def field_of(self, code: str | None) -> str | None:
        """The field that an error with this code is about, where the model server does not say it."""
        if code == "invalid_json_schema":
            return "tools" if self.tools else "text.format"
        return super().field_of(code)
