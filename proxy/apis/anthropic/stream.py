"""A stream of Anthropic's messages: how it ends, and the whole message in it."""

from proxy.apis.answer_json import UnreadableError, read_any
from proxy.apis.assemble import UnfinishedError, add_text, index_of, joined, load
from proxy.apis.fields import Json
from proxy.apis.openai.server_errors import from_error
from proxy.apis.stream_end import StreamEnd
from proxy.wire.sse import ServerSentEvent

STREAM_END = StreamEnd(
    "the event that stops it",
    lambda event: event.type == "message_stop",
    failure=from_error,
    named_errors=True,
)


class MessageAssembler:
    """Anthropic's message events to a message."""

    def __init__(self) -> None:
        self._message: Json = {}
        self._blocks: dict[int, Json] = {}
        self._inputs: dict[int, list[str]] = {}
        self._is_stopped = False

    def feed(self, event: ServerSentEvent) -> None:
        """Take the next event."""
        if (data := load(event)) is None:
            return
        match data.get("type"):
            case "message_start":
                self._message = data["message"]
            case "content_block_start":
                self._blocks[index_of(data["index"])] = data["content_block"]
            case "content_block_delta":
                self._merge(index_of(data["index"]), data["delta"])
            case "message_delta":
                self._message.update(data["delta"])
                self._message.setdefault("usage", {}).update(data.get("usage", {}))
            case "message_stop":
                self._is_stopped = True
            case _:
                pass  # ping, and the ends of blocks

    def _merge(self, index: int, delta: Json) -> None:
        block = self._blocks[index]
        for key, value in delta.items():
            if key == "partial_json":
                self._inputs.setdefault(index, []).append(value)
            elif key == "signature":
                block[key] = value
            elif key != "type":
                add_text(block, key, value)

    def result(self) -> Json:
        """The whole message."""
        if not (self._is_stopped and self._message):
            raise UnfinishedError("the event that stops it")
        blocks = {index: joined(block) for index, block in sorted(self._blocks.items())}
        for index, pieces in self._inputs.items():
            try:
                blocks[index]["input"] = read_any("".join(pieces).encode())
            except UnreadableError:
                blocks[index]["input"] = {}
        for block in blocks.values():
            if block.get("type") == "tool_use":
                block.setdefault("input", {})
            elif block.get("type") == "thinking":
                block.setdefault("signature", "")
        return {**self._message, "content": list(blocks.values())}
