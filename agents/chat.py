"""The canonical request, independent of any API. Every API's request is read into it."""

import itertools
from collections import defaultdict, deque
from collections.abc import Iterable
from typing import Any, Literal

import msgspec

Json = dict[str, Any]


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """The sampling parameters. None leaves a parameter to the model server.

    `num_ctx`, the context in tokens, takes effect only when the model starts.
    """

    max_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    seed: int | None = None
    stop: list[str] = []
    repeat_last_n: int | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    num_ctx: int | None = None


class Image(msgspec.Struct, frozen=True):
    """An image: base64 `data` with its `mime` type, or a `url` that its reader must fetch."""

    mime: str = ""
    data: str = ""
    url: str = ""


class ToolCall(msgspec.Struct, frozen=True):
    """A tool call by a model.

    `arguments` should be the text of a JSON object, but models may write other text.
    """

    id: str
    name: str
    arguments: str = "{}"


class Message(msgspec.Struct, frozen=True):
    """One message. `role` is system, user, assistant or tool, or a role that only the model's template knows.

    For a tool's result, `text` is the result, and id and name are those of the answered call.
    """

    role: str
    text: str = ""
    reasoning: str = ""
    images: list[Image] = []
    tool_calls: list[ToolCall] = []
    tool_call_id: str = ""
    tool_name: str = ""


class Tool(msgspec.Struct, frozen=True):
    """A function that the model may call; `parameters` is a JSON schema."""

    name: str
    description: str = ""
    parameters: Json | None = None
    strict: bool | None = None


class NamedTool(msgspec.Struct, frozen=True):
    """A tool choice that forces one tool."""

    name: str


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """The common part of all generating requests.

    `format` is "json", or the JSON schema of the answer. `keep_alive` is in seconds, infinite for ever.
    `extra` holds the fields that have no name here, for a backend that knows them. `ignored` names what the
    client asked for and nobody here can do. `echo` is for the client's API alone: what its answers repeat.
    """

    model: str
    sampling: Sampling = Sampling()
    format: Literal["json"] | Json | None = None
    stream: bool = False
    include_usage: bool = False
    logprobs: bool = False
    top_logprobs: int = 0
    keep_alive: float | None = None
    extra: dict[str, Any] = {}
    ignored: list[str] = []
    echo: dict[str, Any] = {}


class Chat(Request, frozen=True, kw_only=True):
    """A conversation to be continued. `think` is on, off, or the name of a level."""

    messages: list[Message]
    tools: list[Tool] = []
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = None
    think: bool | str | None = None

    @property
    def callable_tools(self) -> list[Tool]:
        """The tools that `tool_choice` leaves; a model is shown no others."""
        if isinstance(self.tool_choice, NamedTool):
            return [tool for tool in self.tools if tool.name == self.tool_choice.name]
        return [] if self.tool_choice == "none" else self.tools

    @property
    def must_call(self) -> bool:
        """Whether the answer has to be a call."""
        return self.tool_choice == "required" or isinstance(self.tool_choice, NamedTool)


class Completion(Request, frozen=True, kw_only=True):
    """A plain text to be continued, or to be filled in before `suffix`."""

    prompt: str
    suffix: str = ""


def linked(messages: Iterable[Message]) -> list[Message]:
    """Give every tool call an id, and every tool result the id and name of its call.

    A result belongs to the call with its id; without one to the oldest unanswered call with its name;
    without either to the oldest unanswered call.
    """
    names: dict[str, str] = {}
    unanswered: dict[str, str] = {}
    by_name: defaultdict[str, deque[str]] = defaultdict(deque)
    count = 0
    result: list[Message] = []
    for message in messages:
        calls: list[ToolCall] = []
        for call in message.tool_calls:
            count += 1
            # Nine letters and digits: the templates of Mistral's models accept nothing else.
            calls.append(call if call.id else msgspec.structs.replace(call, id=f"call{count:05d}"))
            names[calls[-1].id] = unanswered[calls[-1].id] = call.name
            by_name[call.name].append(calls[-1].id)
        if message.role == "tool":
            known, name = message.tool_call_id, message.tool_name
            waiting = by_name[name] if name else deque(itertools.islice(unanswered, 1))
            while not known and waiting:
                candidate = waiting.popleft()
                known = candidate if candidate in unanswered else ""
            unanswered.pop(known, None)
            result.append(
                msgspec.structs.replace(message, tool_call_id=known, tool_name=name or names.get(known, ""))
            )
        else:
            result.append(msgspec.structs.replace(message, tool_calls=calls) if calls else message)
    return result
