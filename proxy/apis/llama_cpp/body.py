"""Checks the bodies of llama.cpp's own endpoints before a model is loaded."""

from typing import Any

from proxy.apis.openai.body import CompletionRequest
from proxy.apis.requests import GenerationRequest, ModelRequest, Object


class NativeRequest(CompletionRequest, kw_only=True):
    """A request to llama.cpp's `/completion`."""

    @property
    def is_answered_with_a_list(self) -> bool:
        """Whether several answers are requested, not as a stream."""
        return not self.stream and self.answers > 1


class InfillRequest(GenerationRequest, kw_only=True):
    """A request to llama.cpp's `/infill`."""

    input_prefix: str
    input_suffix: str
    return_tokens: bool | None = None

    @property
    def is_answered_with_a_list(self) -> bool:
        """Whether several answers are requested, not as a stream."""
        return not self.stream and self.answers > 1


class TokenizeRequest(ModelRequest, kw_only=True):
    """A request to llama.cpp's `/tokenize`."""

    content: Any


class DetokenizeRequest(ModelRequest, kw_only=True):
    """A request to llama.cpp's `/detokenize`."""

    tokens: list[int]


class TemplateRequest(ModelRequest, kw_only=True):
    """A request to llama.cpp's `/apply-template`."""

    messages: list[Object]
