"""Tools and a format together, pure: no model server knows both, so the formatted answer is one more tool.

A llama.cpp server that is given a format ignores the tools, and so does Ollama. So the model must call: one
of the client's tools, or the one that takes the answer, whose arguments are the text that the client gets.
"""

from collections.abc import Iterable, Iterator

import msgspec

from agents.chat import Chat, Completion, Tool
from agents.events import Event, Finish, Text, ToolCallDelta

NAME = "final_answer_in_format"
_DESCRIPTION = "Gives the final answer to the user. Call it once nothing else is to be called."


def with_answer_tool(request: Chat | Completion) -> Chat | Completion:
    """Return the request with that tool, if it has tools that may be called, and a format of an object."""
    if not isinstance(request, Chat) or request.must_call or not request.callable_tools:
        return request
    schema = {"type": "object"} if request.format == "json" else request.format
    if not isinstance(schema, dict) or schema.get("type") != "object":
        return request
    tool = Tool(NAME, _DESCRIPTION, schema)
    return msgspec.structs.replace(request, tools=[*request.tools, tool], tool_choice="required", format=None)


class AnswerToolReader:
    """Makes the text of the answer of the call that has it."""

    def __init__(self) -> None:
        self._answers: set[int] = set()
        self._others: set[int] = set()

    def read(self, events: Iterable[Event]) -> list[Event]:
        """Return a stream's next events as the client is to have them."""
        return [one for event in events for one in self._read(event)]

    def _read(self, event: Event) -> Iterator[Event]:
        if isinstance(event, ToolCallDelta):
            if event.name and event.index not in self._others | self._answers:
                (self._answers if event.name == NAME else self._others).add(event.index)
            if event.index not in self._answers:
                yield event
            elif event.arguments:
                yield Text(event.arguments)
        elif isinstance(event, Finish) and event.reason == "tool_calls" and not self._others:
            yield Finish("stop", event.stop_sequence)
        else:
            yield event
