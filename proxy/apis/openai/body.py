"""What is checked of OpenAI's bodies before a model is loaded."""

from typing import Any

from proxy.apis.requests import GenerationRequest, ModelRequest, Number, Object


class ChatRequest(GenerationRequest, kw_only=True):
    """`/v1/chat/completions`."""

    messages: list[Object]
    max_completion_tokens: Number = None
    presence_penalty: Number = None
    frequency_penalty: Number = None
    tools: list[Object] | None = None
    response_format: Object | None = None
    stream_options: Object | None = None


class CompletionRequest(GenerationRequest, kw_only=True):
    """`/v1/completions`, and llama.cpp's `/completion`."""

    prompt: Any
    return_tokens: bool | None = None
    stream_options: Object | None = None

    @property
    def prompts(self) -> int:
        """How many there are. A list with numbers is one, of tokens and texts."""
        if not isinstance(self.prompt, list):
            return 1
        kinds = set(map(type, self.prompt))
        return 1 if int in kinds and kinds <= {int, str} else len(self.prompt)

    @property
    def answers(self) -> float:
        """So many choices for each prompt."""
        return self.prompts * super().answers


class EmbeddingsRequest(ModelRequest, kw_only=True):
    """`/v1/embeddings`."""

    input: str | list[Any]


class RerankRequest(ModelRequest, kw_only=True):
    """`/v1/rerank`."""

    query: str
    documents: list[Any]
    top_n: Number = None
