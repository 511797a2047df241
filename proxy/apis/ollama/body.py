"""Checks Ollama's bodies before a model is loaded."""

from typing import Any

from proxy.apis.durations import keep_alive
from proxy.apis.requests import ModelRequest, Object


class OllamaRequest(ModelRequest, kw_only=True):
    """The common part of Ollama's requests for an answer."""

    keep_alive: Any = None
    options: dict[str, Any] | None = None
    think: Any = None

    @property
    def needs(self) -> tuple[str, ...]:
        """The capability "thinking", if the request asks for it."""
        return ("thinking",) if self.think else ()

    @property
    def stays_loaded(self) -> float | None:
        """The seconds in `keep_alive`. Raises `FieldError`."""
        return keep_alive(self.keep_alive)

    @property
    def answer_limit(self) -> float | None:
        """`options.num_predict`."""
        limit = (self.options or {}).get("num_predict")
        return limit if isinstance(limit, int | float) else None


class OllamaChatRequest(OllamaRequest, kw_only=True):
    """A request to `/api/chat`."""

    stream: bool | None = True
    messages: list[Object] | None = None

    @property
    def says_anything(self) -> bool:
        """Whether there is a message."""
        return bool(self.messages)


class OllamaGenerateRequest(OllamaRequest, kw_only=True):
    """A request to `/api/generate`."""

    stream: bool | None = True
    prompt: str | None = None

    @property
    def says_anything(self) -> bool:
        """Whether there is a prompt."""
        return bool(self.prompt)
