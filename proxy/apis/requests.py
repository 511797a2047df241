"""Checks request bodies before a model is loaded, and sets the few fields that the gateway sets itself.

Only fields that every client of an API uses alike are typed, and loosely. All other fields are left to the
model server, and pass unchanged, byte for byte.
"""

from typing import ClassVar, TypeVar

import msgspec

from actors.scheduler.loading import MARK, without_lines
from agents.chat import Chat, Completion, NamedTool, Request
from proxy.apis.fields import FieldError, decode
from proxy.apis.server_errors import TOO_LONG
from proxy.errors import ApiError

Object = dict[str, msgspec.Raw]
Number = float | None
Text = str | None

PROMPT_FAULTS = (TOO_LONG, "invalid_value", "unsupported_value", "invalid_image")
"""Codes of errors in the prompt, unless they name another field."""

_MOST_TOKENS = 2**31 - 1
"""The largest number of tokens that llama.cpp reads as a limit."""


class ModelRequest(msgspec.Struct):
    """Any request that names a model."""

    model: str
    stream: bool | None = None

    @property
    def answers(self) -> float:
        """The number of answers in one stream."""
        return 1

    @property
    def needs_translation(self) -> bool:
        """Whether a server of the same API would not do as asked, or answer in an unreadable form."""
        return False

    @property
    def may_have_progress(self) -> bool:
        """Whether a llama.cpp server may be asked for progress events, which are removed from the stream.

        They can be removed only before the first event of the answer.
        """
        return True

    @property
    def is_never_streamed(self) -> bool:
        """Whether the whole answer cannot be assembled from a llama.cpp server's stream."""
        return False

    @property
    def is_answered_with_a_list(self) -> bool:
        """Whether the answer is a list of answers, which cannot be assembled from a stream."""
        return False

    @property
    def says_anything(self) -> bool:
        """Whether the request has a prompt. Without one, some APIs only load or unload the model."""
        return True

    @property
    def stays_loaded(self) -> float | None:
        """How long the model should stay loaded, in seconds; None: not set. Raises `FieldError`."""
        return None

    @property
    def needs(self) -> tuple[str, ...]:
        """The capabilities that a model must have for this request, by their names in `/api/show`."""
        return ()

    def check(self) -> None:
        """Raise `FieldError` for values that are invalid although their types are right."""

    def corrections(self, body: bytes) -> dict[str, bytes]:
        """Return corrected values for the fields that a server of the same API would refuse or misread."""
        return {}

    prompt_field: ClassVar[str | None] = None
    unheard: ClassVar[frozenset[str]] = frozenset()
    """Fields of the API that a server of the same API silently ignores."""

    def field_of(self, code: str | None) -> str | None:
        """Return the field that caused an error with this code, for errors that name no field."""
        return self.prompt_field if code in PROMPT_FAULTS else None

    @property
    def answer_limit(self) -> float | None:
        """The maximum number of tokens of each answer; None: the request sets no limit."""
        return None


class GenerationRequest(ModelRequest):
    """The common fields of the generating endpoints."""

    temperature: Number = None
    top_p: Number = None
    top_k: Number = None
    max_tokens: Number = None
    seed: Number = None
    return_progress: bool | None = None
    stop: str | list[str] | None = None
    n: Number = None
    n_cmpl: Number = None
    """llama.cpp's own name of `n`. It takes precedence."""

    @property
    def answers(self) -> float:
        """The number of choices."""
        return self.n_cmpl or self.n or 1

    def check(self) -> None:
        """Raise `FieldError` for an invalid `max_tokens` or `n`, and for an empty stop sequence."""
        check_limit("max_tokens", self.max_tokens)
        if self.n is not None and self.n < 1:
            raise FieldError("n", "must be 1 or more", "integer_below_min_value")
        if self.n is not None and not float(self.n).is_integer():
            raise FieldError("n", "must be a whole number", "invalid_type")
        if self.stop == "" or (isinstance(self.stop, list) and not all(self.stop)):
            raise empty_stop()

    @property
    def answer_limit(self) -> float | None:
        """`max_tokens`."""
        return self.max_tokens


def empty_stop() -> FieldError:
    """Return the error of an empty stop sequence."""
    return FieldError("stop", "an empty text would end each answer at once", "empty_string")


def check_limit(field: str, value: Number) -> None:
    """Raise `FieldError` for an invalid limit of tokens. For llama.cpp and Ollama -1 means no limit."""
    if value is None:
        return
    if value < -1:
        raise FieldError(field, "must be 1 or more, or -1 for no limit", "integer_below_min_value")
    if value > _MOST_TOKENS:
        raise FieldError(field, f"must be at most {_MOST_TOKENS}", "integer_above_max_value")


R = TypeVar("R", bound=msgspec.Struct)
C = TypeVar("C", Chat, Chat | Completion)


def parse_body(body: bytes, kind: type[R]) -> R:
    """Decode a body, and check its JSON and its typed fields. Raises `ApiError`."""
    try:
        return decode(body, kind)
    except FieldError as error:
        raise invalid_field(error) from None


def invalid_field(error: FieldError) -> ApiError:
    """Return the `ApiError` for an invalid field, with status 400."""
    return ApiError(400, str(error), code=error.code, param=error.field)


def without_lines_in(request: C) -> C:
    """Return a request without the gateway's lines in its history."""
    if not isinstance(request, Chat) or not any(one.reasoning.startswith(MARK) for one in request.messages):
        return request
    messages = [
        msgspec.structs.replace(one, reasoning=without_lines(one.reasoning)) for one in request.messages
    ]
    return msgspec.structs.replace(request, messages=messages)


def check_request(request: Request) -> None:
    """Raise `FieldError` for a canonical request that no model server should get.

    That is: an empty stop sequence, a chat without messages, a forced call without a tool to call.
    """
    if not all(request.sampling.stop):
        raise empty_stop()
    if not isinstance(request, Chat):
        return
    if not request.messages:
        raise FieldError("messages", "is empty", "empty_array")
    if request.must_call and not request.callable_tools:
        choice = request.tool_choice
        name = f"there is no tool {choice.name!r}" if isinstance(choice, NamedTool) else "there are no tools"
        raise FieldError("tool_choice", f"{name} among `tools` to call")


def fields_of(body: bytes) -> Object:
    """Return the top-level fields of a valid body, undecoded."""
    return msgspec.json.decode(body, type=Object)


def given(fields: Object, names: frozenset[str]) -> list[str]:
    """Return the `names` of fields that are present and neither null, false nor empty."""
    if names.isdisjoint(fields):
        return []
    return [name for name, value in fields.items() if name in names and bytes(value) not in _NOTHING]


_NOTHING = (b"null", b"false", b'""', b"[]", b"{}")


def with_fields(values: Object, fields: dict[str, bytes]) -> bytes:
    """Return a body with some top-level fields set to JSON values. Other fields keep their exact bytes."""
    for name, value in fields.items():
        values[name] = msgspec.Raw(value)
    return msgspec.json.encode(values)
