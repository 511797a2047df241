"""What is checked of OpenAI's bodies before a model is loaded; `chat_body` is for chats."""

from typing import Any

from proxy.apis.fields import FieldError
from proxy.apis.requests import GenerationRequest, ModelRequest, Number, Object


class CompletionRequest(GenerationRequest, kw_only=True):
    """`/v1/completions`, and llama.cpp's `/completion`."""

    prompt_field = "prompt"
    unheard = frozenset(["best_of", "echo", "suffix", "user"])

    prompt: Any
    return_tokens: bool | None = None
    stream_options: Object | None = None
    logprobs: Any = None
    suffix: Any = None

    @property
    def needs_translation(self) -> bool:
        """llama.cpp gives probabilities in a chat's form here, and leaves a suffix out."""
        texts = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        is_one_text = isinstance(texts, list) and len(texts) == 1 and isinstance(texts[0], str)
        wanted = (self.logprobs is not None and self.logprobs is not False) or bool(self.suffix)
        return wanted and is_one_text and self.answers == 1

    @property
    def prompts(self) -> int:
        """How many there are. A list with numbers is one, of tokens and texts."""
        if not isinstance(self.prompt, list):
            return 1
        kinds = set(map(type, self.prompt))
        return 1 if int in kinds and kinds <= {int, str} else len(self.prompt)

    def check(self) -> None:
        """Raise `FieldError` for a prompt that is none."""
        super().check()
        if not isinstance(self.prompt, str | list | dict):
            problem = f"must be a text or a list, not {type(self.prompt).__name__}"
            raise FieldError("prompt", problem, "invalid_type")
        if self.prompt in ([], {}):
            raise FieldError("prompt", "is empty", "empty_array")

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
