"""Checks OpenAI's bodies before a model is loaded, except those of chats: see `chat_body`."""

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
        """Whether the client wants log probabilities or a suffix, for one prompt and one choice.

        llama.cpp writes log probabilities in the form of a chat here, and ignores a suffix.
        """
        texts = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        is_one_text = isinstance(texts, list) and len(texts) == 1 and isinstance(texts[0], str)
        wanted = (self.logprobs is not None and self.logprobs is not False) or bool(self.suffix)
        return wanted and is_one_text and self.answers == 1

    @property
    def prompts(self) -> int:
        """The number of prompts. A list that contains numbers is one prompt, of tokens and texts."""
        if not isinstance(self.prompt, list):
            return 1
        kinds = set(map(type, self.prompt))
        return 1 if int in kinds and kinds <= {int, str} else len(self.prompt)

    def check(self) -> None:
        """Raise `FieldError` for a prompt of the wrong type, or an empty list or object."""
        super().check()
        if not isinstance(self.prompt, str | list | dict):
            problem = f"must be a text or a list, not {type(self.prompt).__name__}"
            raise FieldError("prompt", problem, "invalid_type")
        if self.prompt in ([], {}):
            raise FieldError("prompt", "is empty", "empty_array")

    @property
    def answers(self) -> float:
        """The number of prompts, times the choices for each prompt."""
        return self.prompts * super().answers


class EmbeddingsRequest(ModelRequest, kw_only=True):
    """`/v1/embeddings`."""

    input: str | list[Any]


class RerankRequest(ModelRequest, kw_only=True):
    """`/v1/rerank`."""

    query: str
    documents: list[Any]
    top_n: Number = None
