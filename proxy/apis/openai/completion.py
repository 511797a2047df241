"""Reads requests of `/v1/completions`, OpenAI's older API, and writes the answers."""

import itertools
from collections.abc import Sequence
from typing import Any

import msgspec

from agents.chat import Completion
from agents.events import Answer, AnswerFailed, AnswerStarted, Done, Event, Finish, Logprobs, Text, Usage
from proxy.apis import server_errors as failures
from proxy.apis.durations import keep_alive
from proxy.apis.fields import FieldError, Json, decode, encode, unknown
from proxy.apis.openai.answer import usage_fields
from proxy.apis.openai.client_errors import OPENAI
from proxy.apis.sampling import Number, SamplingFields, sampling_of


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Body(SamplingFields, kw_only=True):
    model: str
    prompt: str | list[Any]
    suffix: str | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    n: Number = None
    max_tokens: Number = None
    echo: bool | None = None
    logprobs: int | None = None
    keep_alive: Any = None


def decode_request(body: bytes) -> Completion:
    """Read a body of `/v1/completions`. Raises `FieldError`, also for options that Ollama does not have."""
    wire = decode(body, _Body)
    prompt = wire.prompt
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str):
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise FieldError("prompt", "only one text is supported for this model", "unsupported_value")
    if not prompt:
        raise FieldError("prompt", "is empty", "empty_string")
    if wire.n is not None and wire.n != 1:
        raise FieldError("n", "only one choice is supported for this model", "unsupported_value")
    if wire.echo:
        raise FieldError("echo", "is not supported for this model", "unsupported_value")
    return Completion(
        model=wire.model,
        prompt=prompt,
        suffix=wire.suffix or "",
        sampling=sampling_of(wire, wire.max_tokens, "max_tokens"),
        stream=bool(wire.stream),
        include_usage=bool(wire.stream_options and wire.stream_options.include_usage),
        keep_alive=keep_alive(wire.keep_alive),
        extra=unknown(body, _Body),
        logprobs=wire.logprobs is not None,
        top_logprobs=wire.logprobs or 0,
    )


class Encoder:
    """Writes the stream of `/v1/completions`, with the model name `model`. Reasoning is left out."""

    def __init__(self, *, model: str, include_usage: bool = False) -> None:
        self._model = model
        self._include_usage = include_usage
        self._start = AnswerStarted("", "", 0)
        self._usage = Usage()
        self._tokens: list[Any] = []
        self._length = 0
        """Number of characters of the text so far."""
        self._ended = False

    def encode(self, event: Event, now: float) -> bytes:
        """Return the bytes of `event`, often none."""
        if self._ended:
            return b""
        match event:
            case Text():
                tokens, self._tokens = self._tokens, []
                begin, self._length = self._length, self._length + len(event.text)
                return self._chunk([_choice(event.text, tokens=tokens, begin=begin)])
            case Logprobs():
                self._tokens += event.tokens
            case AnswerStarted():
                self._start = event
            case Finish():
                return self._chunk([_choice("", event.reason)])
            case Usage():
                self._usage = event
            case AnswerFailed():
                self._ended = True
                return OPENAI.frame(failures.to_api_error(event), "")
            case Done():
                self._ended = True
                usage = self._chunk([], **usage_fields(self._usage)) if self._include_usage else b""
                return usage + b"data: [DONE]\n\n"
            case _:
                pass
        return b""

    def _chunk(self, choices: list[Json], **more: Any) -> bytes:
        return b"data: " + encode({**_shared(self._start, self._model), "choices": choices, **more}) + b"\n\n"


def _shared(start: AnswerStarted | Answer, model: str) -> Json:
    return {"id": start.id, "object": "text_completion", "created": start.created, "model": model}


def _choice(text: str, reason: str | None = None, *, tokens: Sequence[Any] = (), begin: int = 0) -> Json:
    logprobs = _logprobs(tokens, begin) if tokens else None
    return {"text": text, "index": 0, "logprobs": logprobs, "finish_reason": reason}


def _logprobs(tokens: Sequence[Any], begin: int) -> Json:
    """Return log probabilities in the form of a completion; the first token is at the character `begin`."""
    read = _dicts(tokens)
    texts = [str(token.get("token", "")) for token in read]
    return {
        "tokens": texts,
        "token_logprobs": [token.get("logprob") for token in read],
        "top_logprobs": [
            {str(other.get("token", "")): other.get("logprob") for other in _dicts(token.get("top_logprobs"))}
            for token in read
        ],
        "text_offset": list(itertools.accumulate(map(len, texts[:-1]), initial=begin)),
    }


def _dicts(values: Any) -> list[Json]:
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list | tuple) else []


def encode_answer(answer: Answer, *, model: str) -> Json:
    """Return the whole `text_completion`."""
    choices = [_choice(answer.text, answer.reason, tokens=answer.logprobs)]
    return {**_shared(answer, model), "choices": choices, **usage_fields(answer.usage)}
