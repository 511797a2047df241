"""Redacts whole texts and whole requests. Blocking, since patterns may be slow."""

import binascii
from collections.abc import Sequence
from time import monotonic
from typing import Any

import msgspec
import regex

from agents.chat import Chat, Image, Message, NamedTool, Sampling, ToolCall
from agents.guard.scanner import TIMEOUT
from agents.guard.strings import clean_text, clean_value

CHARACTERS_PER_SECOND = 2_000_000
"""Least speed of a sane pattern, so that a long text gets more time than `TIMEOUT`."""


SMALLEST_PICTURE = 36
"""Characters of base64 in the smallest GIF."""


class ForbiddenError(Exception):
    """A text matches the denying pattern with this number."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Cleaner:
    """Cleans one request, or one event of an answer, within `seconds`.

    All methods raise `ForbiddenError`, and `TimeoutError` when one pattern is too slow on a text, or all
    patterns together are.
    """

    def __init__(
        self,
        deny: Sequence["regex.Pattern[str]"],
        redact: Sequence["regex.Pattern[str]"],
        replacement: str,
        *,
        seconds: float,
    ) -> None:
        self._deny = deny
        self._redact = redact
        self._replacement = replacement
        self._deadline = monotonic() + seconds
        self._ids: dict[str, str] = {}

    def text(self, text: str) -> str:
        """Redact a text."""
        if not text:
            return text  # most fields of a request are empty, and no pattern matches an empty text
        self._check(text)
        for pattern in self._redact:
            text = pattern.sub(lambda _: self._replacement, text, timeout=self._limit(text), concurrent=True)
        return text

    def _check(self, text: str) -> None:
        for number, pattern in enumerate(self._deny, 1):
            if pattern.search(text, timeout=self._limit(text), concurrent=True):
                raise ForbiddenError(number)

    def _limit(self, text: str) -> float:
        left = self._deadline - monotonic()
        if left <= 0:
            raise TimeoutError
        return min(left, TIMEOUT + len(text) / CHARACTERS_PER_SECOND)

    def value(self, value: Any) -> Any:
        """Redact a JSON value."""
        return clean_value(value, self.text)

    def call(self, call: ToolCall) -> ToolCall:
        """Redact a tool call. The raw text of the arguments is checked too."""
        self._check(call.arguments)
        return msgspec.structs.replace(
            call, name=self.text(call.name), arguments=clean_text(call.arguments, self.text)
        )

    def request(self, request: Chat) -> Chat:
        """Redact every text of a request that the model or its server can read."""
        choice = request.tool_choice
        return msgspec.structs.replace(
            request,
            messages=[
                message if (cleaned := self._message(message)) == message else cleaned
                for message in request.messages
            ],
            tools=[
                msgspec.structs.replace(
                    tool,
                    name=self.text(tool.name),
                    description=self.text(tool.description),
                    parameters=self.value(tool.parameters),
                )
                for tool in request.tools
            ],
            tool_choice=NamedTool(self.text(choice.name)) if isinstance(choice, NamedTool) else choice,
            sampling=self._sampling(request.sampling),
            think=self.value(request.think),
            format=self.value(request.format) if isinstance(request.format, dict) else request.format,
            extra=self.value(request.extra),
        )

    def _message(self, message: Message) -> Message:
        return msgspec.structs.replace(
            message,
            role=self.text(message.role),
            text=self.text(message.text),
            reasoning=self.text(message.reasoning),
            images=[self._image(image) for image in message.images],
            tool_calls=[
                msgspec.structs.replace(self.call(call), id=self._id(call.id)) for call in message.tool_calls
            ],
            tool_call_id=self._id(message.tool_call_id),
            tool_name=self.text(message.tool_name),
        )

    def _image(self, image: Image) -> Image:
        data = image.data if _is_picture(image.data) else self.text(image.data)
        return Image(self.text(image.mime), data, self.text(image.url))

    def _sampling(self, sampling: Sampling) -> Sampling:
        """Redact sampling parameters: numbers that match are dropped, texts are cleaned."""
        cleaned = self.value(msgspec.structs.asdict(sampling))
        stop = cleaned.pop("stop")
        numbers = {name: None if isinstance(value, str) else value for name, value in cleaned.items()}
        return Sampling(stop=stop, **numbers)

    def _id(self, given: str) -> str:
        """Replace a tool call's id that matches a pattern with nine letters, as some templates need.

        An id is arbitrary text of the client, which may match by chance.
        """
        try:
            if self.text(given) == given:
                return given
        except ForbiddenError:
            pass
        number = len(self._ids)
        letters = "".join(chr(ord("a") + number // 26**place % 26) for place in range(5))
        return self._ids.setdefault(given, f"call{letters}")


def _is_picture(data: str) -> bool:
    """Whether the data is a base64 image, and not some text in its place."""
    if len(data) < SMALLEST_PICTURE:
        return False
    try:
        binascii.a2b_base64(data, strict_mode=True)
    except ValueError:
        return False
    return True
