"""Writes requests to a llama.cpp server, and reads its streams."""

from collections.abc import Iterable
from typing import Any

import msgspec

from agents.chat import (
    Chat,
    Completion,
    Message,
    NamedTool,
    Sampling,
    Tool,
)
from agents.events import (
    AnswerFailed,
    AnswerStarted,
    Done,
    Event,
    Finish,
    Logprobs,
    Reason,
    Reasoning,
    Text,
    ToolCallDelta,
    Usage,
)
from proxy.apis import images
from proxy.apis import server_errors as failures
from proxy.apis.answer_json import UnreadableError, count, read_any, reader, seconds
from proxy.apis.fields import Json, call_arguments, encode, present
from proxy.apis.openai.server_errors import from_error
from proxy.apis.sampling import COMMON
from proxy.wire.sse import EventSplitter, ServerSentEvent

_GATEWAYS_OWN = {"n", "n_cmpl", "return_progress", "shift", "stream_options", "truncate"}


def path_of(request: Chat | Completion) -> str:
    """Return the llama.cpp server's path for the body that `encode_request` writes."""
    if isinstance(request, Chat):
        return "/v1/chat/completions"
    return "/infill" if request.suffix else "/v1/completions"


COUNT_PATH = "/v1/chat/completions/input_tokens"
"""The path that counts the tokens of a chat. It takes the same body as the chat."""


def encode_request(request: Chat | Completion) -> bytes:
    """Write a request for a llama.cpp server: always for a stream, with its usage. Raises `FieldError`."""
    body = {name: value for name, value in request.extra.items() if name not in _GATEWAYS_OWN}
    body |= {
        "model": request.model,
        "stream": True,
        "stream_options": {"include_usage": True},
        # Without progress events the server would not notice, after each batch, that its client left.
        "return_progress": True,
    }
    body |= _sampling(request.sampling)
    if isinstance(request, Completion):
        body |= _completion(request)
    else:
        body |= _chat(request)
    return encode(body)


def _sampling(sampling: Sampling) -> Json:
    fields = {name: getattr(sampling, name) for name in COMMON}
    # Ollama's negative values mean no limit; llama.cpp has no limit if the field is absent.
    limit = sampling.max_tokens if (sampling.max_tokens or 0) >= 0 else None
    return present(**fields, max_tokens=limit, stop=sampling.stop)


def _completion(request: Completion) -> Json:
    prompt = {"input_prefix": request.prompt, "input_suffix": request.suffix}
    return {
        **(prompt if request.suffix else {"prompt": request.prompt}),
        **({"n_probs": max(1, request.top_logprobs)} if request.logprobs else {}),
        **present(json_schema={"type": "object"} if request.format == "json" else request.format),
    }


def _chat(request: Chat) -> Json:
    body: Json = {
        "messages": [_encode_message(message, f"messages[{i}]") for i, message in enumerate(request.messages)]
    }
    # llama.cpp does not read a tool's name in `tool_choice`, and shows all tools even with `none`.
    if tools := request.callable_tools:
        body["tools"] = [_encode_tool(tool) for tool in tools]
        if request.tool_choice is not None:
            body["tool_choice"] = "required" if request.must_call else "auto"
        if isinstance(request.tool_choice, NamedTool):
            body["parallel_tool_calls"] = False
    if request.must_call:
        pass  # with a format the server would not call: it is for the text of a later answer
    elif request.format == "json":
        body["response_format"] = {"type": "json_object"}
    elif request.format is not None:
        schema = {"name": "answer", "schema": request.format}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    if request.sampling.stop:
        # Anthropic's answers name the stop sequence that ended them.
        body |= {"verbose": True, "response_fields": ["stopping_word"]}
    if request.logprobs:
        # With `top_logprobs` 0 llama.cpp would write no log probabilities at all.
        body |= {"logprobs": True, "top_logprobs": max(1, request.top_logprobs)}
    if request.think is not None:
        arguments: Json = {"enable_thinking": bool(request.think)}
        if isinstance(request.think, str):
            arguments["reasoning_effort"] = request.think
        given = request.extra.get("chat_template_kwargs")
        body["chat_template_kwargs"] = {**(given if isinstance(given, dict) else {}), **arguments}
    return body


def _encode_message(message: Message, field: str) -> Json:
    content: str | list[Json] = message.text
    if message.images:
        content = [{"type": "image_url", "image_url": {"url": images.url_of(i)}} for i in message.images]
        if message.text:
            content.append({"type": "text", "text": message.text})
    calls: list[Json] = []
    for index, call in enumerate(message.tool_calls):
        arguments = call_arguments(call.arguments, f"{field}.tool_calls[{index}]")
        function = {"name": call.name, "arguments": arguments}
        calls.append({"id": call.id, "type": "function", "function": function})
    optional = present(
        reasoning_content=message.reasoning,
        tool_calls=calls,
        tool_call_id=message.tool_call_id,
        name=message.tool_name,
    )
    return {"role": message.role, "content": content, **optional}


def _encode_tool(tool: Tool) -> Json:
    optional = present(description=tool.description, strict=tool.strict)
    if tool.parameters is not None:
        optional["parameters"] = tool.parameters
    return {"type": "function", "function": {"name": tool.name, **optional}}


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct):
    index: int = 0
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_Call] | None = None


class _Logprobs(msgspec.Struct):
    content: list[Any] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _PromptDetails(msgspec.Struct, gc=False):
    cached_tokens: Any = None


class _Usage(msgspec.Struct):
    prompt_tokens: Any = 0
    completion_tokens: Any = 0
    prompt_tokens_details: _PromptDetails | None = None


class _Timings(msgspec.Struct, gc=False):
    """llama.cpp's timings. `prompt_n` does not include the `cache_n` tokens read from the cache."""

    prompt_n: Any = 0
    cache_n: Any = 0
    predicted_n: Any = 0
    prompt_ms: Any = 0.0
    predicted_ms: Any = 0.0


class _Counted(msgspec.Struct):
    input_tokens: int


_read_counted = reader(_Counted)


def decode_count(body: bytes) -> int | AnswerFailed:
    """Read the number of a chat's tokens; return a failure if the answer cannot be read."""
    try:
        return count(_read_counted(body).input_tokens)
    except UnreadableError as error:
        return failures.unreadable(error)


class _Verbose(msgspec.Struct, gc=False):
    stopping_word: Any = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    id: str = ""
    model: str = ""
    created: int = 0
    usage: _Usage | None = None
    timings: _Timings | None = None
    error: Any = None
    prompt_progress: Any = None
    verbose: _Verbose | None = msgspec.field(name="__verbose", default=None)
    # Fields of llama.cpp's own completion events, which `/infill` sends.
    content: str | None = None
    stop: bool = False
    stop_type: str = ""
    completion_probabilities: list[Any] | None = None


_read_chunk = reader(_Chunk)

_REASONS: dict[str, Reason] = {
    "length": "length",
    "limit": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


class Decoder:
    """Reads the streams of `/v1/chat/completions`, `/v1/completions` and llama.cpp's `/infill`.

    Only the first choice is read. Comments are skipped. Events of `return_progress` only give `AnswerStarted`
    the counts of the prompt. A stream is complete if it has a finish reason, or `[DONE]` after an answer.
    """

    def __init__(self) -> None:
        self._splitter = EventSplitter()
        self._started = self._ended = False
        self._answers = self._finished = False
        self._calls: dict[int, int] = {}
        self._timings = _Timings()
        self._usage: _Usage | None = None
        self._prompt = self._cached = 0

    def feed(self, data: bytes) -> list[Event]:
        """Return the events that `data` completes. Raises `EventTooLongError`."""
        return self._events_of(self._splitter.feed(data))

    def _events_of(self, come: Iterable[ServerSentEvent]) -> list[Event]:
        events: list[Event] = []
        for event in come:
            if self._ended:
                break
            try:
                self._read(event, events)
            except UnreadableError as error:
                self._end_with(failures.unreadable(error), events)
        return events

    def end(self) -> list[Event]:
        """Return the events of an unfinished last event, then `Done` or, for a cut off answer, a failure."""
        events = self._events_of(self._splitter.end())
        if not self._ended:
            self._end_with(Done() if self._finished else failures.truncated("a finish reason"), events)
        return events

    def _end_with(self, last: Done | AnswerFailed, events: list[Event]) -> None:
        self._ended = True
        events.append(last)

    def _read(self, event: ServerSentEvent, events: list[Event]) -> None:
        if event.data == b"[DONE]":
            self._end_with(Done() if self._answers else failures.empty(), events)
            return
        if event.type == "error":
            error = read_any(event.data)
            inner = error.get("error") if isinstance(error, dict) else None
            self._end_with(from_error(error if inner is None else inner), events)
            return
        chunk = _read_chunk(event.data)
        if chunk.error is not None:
            self._end_with(from_error(chunk.error), events)
            return
        if chunk.prompt_progress is not None:
            self._read_progress(chunk.prompt_progress)
            return
        if not self._started:
            self._started = True
            started = AnswerStarted(chunk.id, chunk.model, chunk.created, self._prompt, self._cached)
            events.append(started)
        for choice in chunk.choices or ():
            if choice.index == 0:
                self._answers = True
                self._finished = self._finished or choice.finish_reason is not None
                self._read_choice(choice, chunk.verbose, events)
        if chunk.content is not None:
            _read_native(chunk, events)
        if chunk.timings is not None or chunk.usage is not None:
            self._timings = chunk.timings or self._timings
            self._usage = chunk.usage or self._usage
            events.append(_usage(self._usage, self._timings))
        if chunk.stop:
            self._end_with(Done(), events)

    def _read_progress(self, progress: Any) -> None:
        if isinstance(progress, dict):
            self._prompt = count(progress.get("total"))
            self._cached = min(self._prompt, count(progress.get("cache")))

    def _read_choice(self, choice: _Choice, verbose: _Verbose | None, events: list[Event]) -> None:
        if choice.logprobs is not None and choice.logprobs.content:
            events.append(Logprobs(choice.logprobs.content))
        if choice.text:
            events.append(Text(choice.text))
        if (delta := choice.delta) is not None:
            if reasoning := delta.reasoning_content or delta.reasoning:
                events.append(Reasoning(reasoning))
            if delta.content:
                events.append(Text(delta.content))
            for call in delta.tool_calls or ():
                function = call.function or _Function()
                events.append(
                    ToolCallDelta(
                        self._number(call.index), call.id or "", function.name or "", function.arguments or ""
                    )
                )
        if choice.finish_reason is not None:
            word = verbose.stopping_word if verbose is not None else None
            reason = _REASONS.get(choice.finish_reason, "stop")
            events.append(Finish(reason, word if word and isinstance(word, str) else None))

    def _number(self, index: int) -> int:
        """Return the place of a call, from 0, in the order of first pieces. An index may be any number."""
        return self._calls.setdefault(index, len(self._calls))


def _read_native(chunk: _Chunk, events: list[Event]) -> None:
    if chunk.completion_probabilities:
        events.append(Logprobs(chunk.completion_probabilities))
    if chunk.content:
        events.append(Text(chunk.content))
    if chunk.stop:
        events.append(Finish(_REASONS.get(chunk.stop_type, "stop")))


def _usage(usage: _Usage | None, timings: _Timings) -> Usage:
    if usage is None:
        cached = count(timings.cache_n)
        prompt, completion = count(timings.prompt_n) + cached, count(timings.predicted_n)
    else:
        details = usage.prompt_tokens_details
        prompt, completion = count(usage.prompt_tokens), count(usage.completion_tokens)
        cached = count(details.cached_tokens) if details is not None else 0
    return Usage(
        prompt,
        completion,
        cached,
        prompt_seconds=seconds(timings.prompt_ms, 1e3),
        completion_seconds=seconds(timings.predicted_ms, 1e3),
    )
