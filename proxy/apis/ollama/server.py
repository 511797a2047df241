"""Writes requests to an Ollama daemon, and reads its streams."""

import math
from datetime import datetime
from typing import Any

import msgspec

from agents.chat import Chat, Completion, Message, Tool
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
from proxy.apis.answer_json import UnreadableError, count, reader, seconds
from proxy.apis.durations import keep_alive_field
from proxy.apis.fields import Json, call_arguments, encode, object_text, present
from proxy.apis.ollama import forced_call
from proxy.apis.ollama.repetition import Repetition
from proxy.apis.ollama.server_errors import from_error
from proxy.apis.sampling import COMMON
from proxy.wire.ndjson import LineSplitter

_RUNNER_OPTIONS = {"main_gpu", "num_batch", "num_ctx", "num_gpu", "num_thread", "use_mmap"}
"""Options of the runner. A daemon reloads a model for a request in which one of them differs."""
_SERVER_OPTIONS = _RUNNER_OPTIONS | {"num_keep"}
_PROMPT_OPTIONS = {"shift", "truncate"}


_GATEWAYS_OWN = {"n", "parallel_tool_calls", "stream_options"}


def ignored(request: Chat | Completion) -> list[str]:
    """Return the names of a request's fields that a daemon does not know."""
    known = _SERVER_OPTIONS | _PROMPT_OPTIONS | _GATEWAYS_OWN
    names = [name for name in request.extra if name not in known]
    if isinstance(request, Chat) and any(image.url for one in _history(request) for image in one.images):
        names.append("content.image")
    return names


def _history(request: Chat) -> list[Message]:
    """Return the messages up to the model's last one, which the client sends again with every turn."""
    answered = [index for index, one in enumerate(request.messages) if one.role == "assistant"]
    return request.messages[: answered[-1] + 1 if answered else 0]


def _without_links(message: Message) -> Message:
    """Return a message of the history without images by URL, which the daemon would have to fetch.

    A note in the text replaces them.
    """
    if not any(image.url for image in message.images):
        return message
    kept = [image for image in message.images if not image.url]
    text = f"{message.text}\n[an image by URL was left out: this model cannot fetch it]".lstrip()
    return msgspec.structs.replace(message, images=kept, text=text)


def path_of(request: Chat | Completion) -> str:
    """Return the daemon's path for the body that `encode_request` writes."""
    return "/api/chat" if isinstance(request, Chat) else "/api/generate"


def as_loaded(request: Chat | Completion, model: str, options: dict[str, Any]) -> Chat | Completion:
    """Return the request with the name and the `options` of the loaded model, which must stay loaded."""
    kept = {name: value for name, value in request.extra.items() if name not in _RUNNER_OPTIONS}
    return msgspec.structs.replace(
        request,
        model=model,
        keep_alive=math.inf,
        sampling=msgspec.structs.replace(request.sampling, num_ctx=None),
        extra=kept | options,
    )


def rewritten(body: bytes, model: str, options: dict[str, Any]) -> bytes:
    """Return a client's Ollama body, changed like a request by `as_loaded`.

    All other fields keep their exact bytes.
    """
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    given = msgspec.json.decode(fields.get("options") or b"null", type=dict[str, msgspec.Raw] | None) or {}
    kept: Json = {name: value for name, value in given.items() if name not in _RUNNER_OPTIONS}
    wanted: Json = {"model": model, "keep_alive": -1, **present(options=kept | options)}
    fields.pop("options", None)
    return encode({**fields, **wanted})


def shortest(request: Chat) -> Chat:
    """Return the request for an answer of one token, whose usage has the number of the prompt's tokens.

    Ollama has no other way to count them. The prompt is then in the model's cache for the real request.
    """
    sampling = msgspec.structs.replace(request.sampling, max_tokens=1, stop=[])
    extra = {**request.extra, "truncate": False}
    return msgspec.structs.replace(request, sampling=sampling, format=None, extra=extra)


def encode_request(request: Chat | Completion) -> bytes:
    """Write a body of `/api/chat` or `/api/generate`, always for a stream.

    A model that must call a tool is offered only the tools that it may call, and has to answer in the form of
    a call: see `Decoder`. Raises `FieldError` for values that Ollama does not accept.
    """
    body: Json = {
        "model": request.model,
        "stream": True,
        # Otherwise the daemon would silently drop the beginning of a conversation that is too long.
        "truncate": False,
        **present(options=_options(request)),
        **{name: value for name, value in request.extra.items() if name in _PROMPT_OPTIONS},
    }
    if request.format is not None:
        body["format"] = request.format
    if request.keep_alive is not None:
        body["keep_alive"] = keep_alive_field(request.keep_alive)
    if request.logprobs:
        body |= {"logprobs": True, "top_logprobs": request.top_logprobs}
    return encode(body | (_chat(request) if isinstance(request, Chat) else _completion(request)))


def _options(request: Chat | Completion) -> Json:
    sampling = request.sampling
    options = present(
        num_predict=sampling.max_tokens,
        stop=sampling.stop,
        num_ctx=sampling.num_ctx,
        **{name: getattr(sampling, name) for name in COMMON},
    )
    return options | {name: value for name, value in request.extra.items() if name in _SERVER_OPTIONS}


def _completion(request: Completion) -> Json:
    """Return the fields of a completion. Without a suffix the prompt is sent raw: no template is applied."""
    return {"prompt": request.prompt, **({"suffix": request.suffix} if request.suffix else {"raw": True})}


def _chat(request: Chat) -> Json:
    history = _history(request)
    messages = [*map(_without_links, history), *request.messages[len(history) :]]
    body: Json = {
        "messages": [_encode_message(message, f"messages[{i}]") for i, message in enumerate(messages)],
        **present(tools=[_encode_tool(tool) for tool in request.callable_tools]),
    }
    if request.must_call and request.callable_tools:
        body["format"] = forced_call.format_of(request.callable_tools)
    if request.think is not None:
        body["think"] = request.think
    return body


def _encode_message(message: Message, field: str) -> Json:
    calls: list[Json] = []
    for index, call in enumerate(message.tool_calls):
        arguments = call_arguments(call.arguments, f"{field}.tool_calls[{index}]")
        function = {"index": index, "name": call.name, "arguments": msgspec.Raw(arguments.encode())}
        calls.append({"id": call.id, "function": function})
    pictures = [images.base64_of(image, f"{field}.images[{i}]") for i, image in enumerate(message.images)]
    optional = present(
        thinking=message.reasoning,
        images=pictures,
        tool_calls=calls,
        tool_name=message.tool_name,
        tool_call_id=message.tool_call_id,
    )
    return {"role": message.role, "content": message.text, **optional}


def _encode_tool(tool: Tool) -> Json:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": {name: v for name, v in function.items() if v is not None}}


class _Function(msgspec.Struct):
    name: str = ""
    arguments: msgspec.Raw = msgspec.Raw(b"{}")


class _Call(msgspec.Struct):
    function: _Function
    id: str | None = None


class _Message(msgspec.Struct):
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[_Call] | None = None


class _Line(msgspec.Struct):
    model: str = ""
    created_at: str = ""
    message: _Message | None = None
    response: str | None = None
    thinking: str | None = None
    tool_calls: list[_Call] | None = None
    logprobs: list[Any] | None = None
    done: bool = False
    done_reason: str | None = None
    total_duration: Any = 0
    load_duration: Any = 0
    prompt_eval_count: Any = 0
    prompt_eval_duration: Any = 0
    eval_count: Any = 0
    eval_duration: Any = 0
    error: Any = None


_read_line = reader(_Line)


def decode_count(body: bytes) -> int | AnswerFailed:
    """Read the number of the prompt's tokens from the answer to a `shortest` request, or its failure."""
    decoder = Decoder()
    for event in [*decoder.feed(body), *decoder.end()]:
        if isinstance(event, Usage):
            return event.prompt
        if isinstance(event, AnswerFailed):
            return event
    return failures.empty()


class Decoder:
    """Reads the streams of `/api/chat` and `/api/generate`. A daemon's answers have no id: `id` is used.

    If the `request` forces a tool call, a text in the form of a call is read as one. If the `request` allows
    at most one call, further calls are dropped.
    """

    def __init__(self, id: str = "", request: Chat | Completion | None = None) -> None:  # noqa: A002 the wire's own word
        self._id = id
        chat = request if isinstance(request, Chat) else None
        self._tools = chat.callable_tools if chat is not None else []
        self._forced: list[str] | None = [] if chat is not None and chat.must_call else None
        """The pieces of the text so far, which may become the forced call; None: no call is forced."""
        self._most_calls = (
            1 if chat is not None and chat.extra.get("parallel_tool_calls") is False else math.inf
        )
        self._lines = LineSplitter()
        self._started = self._ended = False
        self._calls = 0
        self._call_ids: set[str] = set()
        self._pieces = 0
        self._repetition = Repetition()

    def feed(self, data: bytes) -> list[Event]:
        """Return the events of the lines that `data` completes. Raises `EventTooLongError`."""
        events: list[Event] = []
        for line in self._lines.feed(data):
            self._take(line, events)
        return events

    def end(self) -> list[Event]:
        """Return the events of an unfinished last line, and a failure if the answer is not complete."""
        events: list[Event] = []
        self._take(self._lines.rest(), events)
        if not self._ended and self._repetition.is_end:
            self._ended = True
            self._read_forced(events)
            events += (Finish("stop"), Usage(completion=self._pieces), Done())
        elif not self._ended:
            events.append(failures.truncated("its last line"))
        return events

    def _take(self, line: bytes, events: list[Event]) -> None:
        if self._ended or not line.strip():
            return
        try:
            self._read(_read_line(line), events)
        except UnreadableError as error:
            self._ended = True
            events.append(failures.unreadable(error))

    def _read(self, line: _Line, events: list[Event]) -> None:
        if line.error is not None:
            self._ended = True
            events.append(from_error(line.error))
            return
        if not self._started:
            self._started = True
            events.append(AnswerStarted(self._id, line.model, _seconds(line.created_at)))
        if line.logprobs:
            events.append(Logprobs(line.logprobs))
        message = line.message or _Message(line.response, line.thinking, line.tool_calls)
        self._pieces += 1
        self._repetition.feed(message.content or message.thinking or "")
        if message.thinking:
            events.append(Reasoning(message.thinking))
        if message.content and self._forced is not None:
            self._forced.append(message.content)
        elif message.content:
            events.append(Text(message.content))
        for call in message.tool_calls or ():
            self._read_call(call, events)
        if line.done:
            self._ended = True
            self._read_forced(events)
            events += (Finish(_reason(line.done_reason, called=self._calls > 0)), _usage(line), Done())

    def _read_forced(self, events: list[Event]) -> None:
        text = "".join(self._forced or ())
        if (call := forced_call.call_in(text, self._tools)) is not None and self._calls == 0:
            events.append(ToolCallDelta(0, f"call_{self._id}_0", call.name, call.arguments))
            self._calls = 1
        elif text:
            events.append(Text(text))

    def _read_call(self, call: _Call, events: list[Event]) -> None:
        # Older versions number parallel calls 0, 0, ...; so they are counted here. Calls with a known id are
        # dropped.
        if call.id in self._call_ids or self._calls >= self._most_calls:
            return
        name = call.id or f"call_{self._id}_{self._calls}"
        self._call_ids.add(name)
        arguments = object_text(bytes(call.function.arguments).decode()) or "{}"
        events.append(ToolCallDelta(self._calls, name, call.function.name, arguments))
        self._calls += 1


def _reason(done_reason: str | None, *, called: bool) -> Reason:
    if done_reason == "length":
        return "length"
    return "tool_calls" if called else "stop"


def _seconds(created_at: str) -> int:
    try:
        return int(datetime.fromisoformat(created_at).timestamp())
    except (ValueError, OverflowError):
        return 0


def _usage(line: _Line) -> Usage:
    return Usage(
        count(line.prompt_eval_count),
        count(line.eval_count),
        total_seconds=seconds(line.total_duration, 1e9),
        load_seconds=seconds(line.load_duration, 1e9),
        prompt_seconds=seconds(line.prompt_eval_duration, 1e9),
        completion_seconds=seconds(line.eval_duration, 1e9),
    )
