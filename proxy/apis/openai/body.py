"""What is checked of OpenAI's bodies before a model is loaded."""

from typing import Any

from proxy.apis.requests import GenerationRequest, ModelRequest, Number, Object


class ChatRequest(GenerationRequest, kw_only=True):
    """`/v1/chat/completions`."""

    messages: list[Object]
    max_completion_tokens: Number = None
    n: Number = None
    presence_penalty: Number = None
    frequency_penalty: Number = None
    tools: list[Object] | None = None
    response_format: Object | None = None
    stream_options: Object | None = None

    @property
    def answers(self) -> float:
        """One for each choice."""
        return self.n or 1


class CompletionRequest(GenerationRequest, kw_only=True):
    """`/v1/completions`, and llama.cpp's `/completion`."""

    prompt: Any
    n: Number = None
    return_tokens: bool | None = None
    stream_options: Object | None = None

    @property
    def prompts(self) -> int:
        """How many there are: a list of numbers is one, of tokens."""
        is_list = isinstance(self.prompt, list) and not all(isinstance(item, int) for item in self.prompt)
        return len(self.prompt) if is_list else 1

    @property
    def answers(self) -> float:
        """So many choices for each prompt."""
        return self.prompts * (self.n or 1)


class EmbeddingsRequest(ModelRequest, kw_only=True):
    """`/v1/embeddings`."""

    input: str | list[Any]


class RerankRequest(ModelRequest, kw_only=True):
    """`/v1/rerank`."""

    query: str
    documents: list[Any]
    top_n: Number = None
