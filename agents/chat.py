"""The canonical request: what a client wants of a model, in no dialect's words."""

import itertools
from collections import defaultdict, deque
from collections.abc import Iterable
from typing import Any, Literal

import msgspec

Json = dict[str, Any]


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How tokens are chosen; None is left to the model server.

    `num_ctx`, tokens of context, only a model's start can grant.
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
    """A picture: base64 `data` with its `mime` type, or else a `url` that its reader must fetch."""

    mime: str = ""
    data: str = ""
    url: str = ""


class ToolCall(msgspec.Struct, frozen=True):
    """A call that a model made. `arguments` is the text of a JSON object, as far as the model wrote one."""

    id: str
    name: str
    arguments: str = "{}"


class Message(msgspec.Struct, frozen=True):
    """One turn. `role` is system, user, assistant or tool, or a name that only the model's template knows.

    A tool's result is `text`, with the id and the name of the call that it answers.
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
    """The one tool that must be called."""

    name: str


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What every generating request has.

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
    """A conversation to go on with. `think` is a level's name where it is not yes or no."""

    messages: list[Message]
    tools: list[Tool] = []
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = None
    think: bool | str | None = None


class Completion(Request, frozen=True, kw_only=True):
    """A bare text to go on with, or with a `suffix` to fill in before."""

    prompt: str
    suffix: str = ""


def linked(messages: Iterable[Message]) -> list[Message]:
    """Give every tool call an id, and every result the id and name of its call.

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
            # Nine letters and digits: all that the templates of Mistral's models accept.
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
