"""What is checked of Ollama's bodies before a model is loaded."""

from typing import Any

from proxy.apis.requests import ModelRequest, Object


class OllamaRequest(ModelRequest, kw_only=True):
    """Any of Ollama's requests for an answer."""

    keep_alive: Any = None
    options: dict[str, Any] | None = None


class OllamaChatRequest(OllamaRequest, kw_only=True):
    """`/api/chat`."""

    stream: bool | None = True
    messages: list[Object] | None = None

    @property
    def says_anything(self) -> bool:
        """Without, it only wishes the model loaded, or let go."""
        return bool(self.messages)


class OllamaGenerateRequest(OllamaRequest, kw_only=True):
    """`/api/generate`."""

    stream: bool | None = True
    prompt: str | None = None

    @property
    def says_anything(self) -> bool:
        """Without, it only wishes the model loaded, or let go."""
        return bool(self.prompt)
