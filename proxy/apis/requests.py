"""Request bodies: what is checked before a model is loaded, and the few fields the gateway sets itself.

Only the fields that every API client agrees on are typed, and loosely; everything else is the model
server's business and passes through untouched, byte for byte.
"""

from typing import ClassVar, TypeVar

import msgspec

from agents.chat import Chat, NamedTool, Request
from proxy.apis.fields import FieldError, decode
from proxy.apis.server_errors import TOO_LONG
from proxy.errors import ApiError

Object = dict[str, msgspec.Raw]
Number = float | None
Text = str | None

PROMPT_FAULTS = (TOO_LONG, "invalid_value", "unsupported_value", "invalid_image")
"""The codes of errors that are about the prompt, unless they name another field."""

_MOST_TOKENS = 2**31 - 1
"""The largest number that llama.cpp reads."""


class ModelRequest(msgspec.Struct):
    """Any request that names a model."""

    model: str
    stream: bool | None = None

    @property
    def answers(self) -> float:
        """How many answers come in one stream."""
        return 1

    @property
    def needs_translation(self) -> bool:
        """Whether a server of the same API would not do as asked, or answer as no client can read it."""
        return False

    @property
    def may_have_progress(self) -> bool:
        """Whether a llama.cpp server may be asked for progress, which is taken out before the first event."""
        return True

    @property
    def is_never_streamed(self) -> bool:
        """Whether a llama.cpp server cannot be asked for a stream of which the whole answer would be made."""
        return False

    @property
    def is_answered_with_a_list(self) -> bool:
        """Whether the answer is a list of answers, which cannot be made of a stream."""
        return False

    @property
    def says_anything(self) -> bool:
        """Whether there is a prompt. Without one, some APIs only load or unload the model."""
        return True

    @property
    def stays_loaded(self) -> float | None:
        """The seconds that the model should stay loaded, if the request sets them. Raises `FieldError`."""
        return None

    @property
    def needs(self) -> tuple[str, ...]:
        """The capabilities without which a model must refuse, as `/api/show` calls them."""
        return ()

    def check(self) -> None:
        """Raise `FieldError` for what types alone do not tell to be wrong."""

    def corrections(self, body: bytes) -> dict[str, bytes]:
        """The fields of the body that a server of the same API mistakes as they are, as it takes them."""
        return {}

    prompt_field: ClassVar[str | None] = None
    unheard: ClassVar[frozenset[str]] = frozenset()
    """Fields of the API that a server which speaks it passes over in silence."""

    def field_of(self, code: str | None) -> str | None:
        """The field that an error with this code is about, where the model server does not say it."""
        return self.prompt_field if code in PROMPT_FAULTS else None

    @property
    def answer_limit(self) -> float | None:
        """The most tokens of each answer that the request asks for; None if it sets no limit."""
        return None


class GenerationRequest(ModelRequest):
    """What the generating endpoints have in common."""

    temperature: Number = None
    top_p: Number = None
    top_k: Number = None
    max_tokens: Number = None
    seed: Number = None
    return_progress: bool | None = None
    stop: str | list[str] | None = None
    n: Number = None
    n_cmpl: Number = None
    """llama.cpp's own name, which counts more."""

    @property
    def answers(self) -> float:
        """One for each choice."""
        return self.n_cmpl or self.n or 1

    def check(self) -> None:
        """Raise `FieldError` for limits and counts that are none."""
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
    """What is wrong with an empty text among those that end an answer."""
    return FieldError("stop", "an empty text would end each answer at once", "empty_string")


def check_limit(field: str, value: Number) -> None:
    """Raise `FieldError` for what is no limit of tokens; -1 is none for llama.cpp and Ollama."""
    if value is None:
        return
    if value < -1:
        raise FieldError(field, "must be 1 or more, or -1 for no limit", "integer_below_min_value")
    if value > _MOST_TOKENS:
        raise FieldError(field, f"must be at most {_MOST_TOKENS}", "integer_above_max_value")


R = TypeVar("R", bound=msgspec.Struct)


def parse_body(body: bytes, kind: type[R]) -> R:
    """Check a body's JSON and the fields that are typed. Raises `ApiError`."""
    try:
        return decode(body, kind)
    except FieldError as error:
        raise invalid_field(error) from None


def invalid_field(error: FieldError) -> ApiError:
    """The answer to a request that makes no sense."""
    return ApiError(400, str(error), code=error.code, param=error.field)


def check_request(request: Request) -> None:
    """Raise `FieldError` for what no model server should be asked, whatever API the client speaks."""
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
    """The top-level fields of a body that has been parsed, undecoded."""
    return msgspec.json.decode(body, type=Object)


def given(fields: Object, names: frozenset[str]) -> list[str]:
    """Those of the fields with these names that say anything."""
    if names.isdisjoint(fields):
        return []
    return [name for name, value in fields.items() if name in names and bytes(value) not in _NOTHING]


_NOTHING = (b"null", b"false", b'""', b"[]", b"{}")


def with_fields(values: Object, fields: dict[str, bytes]) -> bytes:
    """A body with some top-level fields set to JSON values; the rest keeps its exact bytes."""
    for name, value in fields.items():
        values[name] = msgspec.Raw(value)
    return msgspec.json.encode(values)
