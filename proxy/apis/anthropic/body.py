"""What is checked of Anthropic's bodies before a model is loaded."""

from proxy.apis.requests import ModelRequest, Number, Object


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
