"""What is checked of a body of the Responses before a model is loaded."""

from proxy.apis.requests import ModelRequest


class ResponsesRequest(ModelRequest, kw_only=True):
    """`/v1/responses`. `request` checks all the rest before the model is asked for."""

    prompt_field = "input"

    store: bool | None = None
    background: bool | None = None
    previous_response_id: str | None = None
