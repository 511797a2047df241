"""Why a request got no lease: values, not exceptions, until they leave the supervisor.

The front door has one table from these types to HTTP statuses (`proxy.errors`).
"""

from collections.abc import Iterable
from typing import Literal

import msgspec

UNREADABLE = (msgspec.MsgspecError, UnicodeError, RecursionError)
"""The exceptions of msgspec for data that does not fit the expected type."""


def located(error: msgspec.ValidationError) -> tuple[str, str]:
    """Split msgspec's message into the problem and its path, such as `messages[0].role`, or empty."""
    message, _, path = str(error).partition(" - at `$")
    return message.replace("`", ""), path.rstrip("`").lstrip(".")


FailureKind = Literal["failed", "not_found", "forbidden", "too_large", "out_of_memory"]


class Failure(msgspec.Struct, frozen=True):
    """Why a model server is not running. `retryable` is false if only the operator can fix it.

    `lacking`: bytes that could not be allocated, if memory ran out and the server reported the amount.
    """

    message: str
    retryable: bool = True
    log_tail: tuple[str, ...] = ()
    kind: FailureKind = "failed"
    lacking: int | None = None


class Rejection(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Base of the supervisor's refusals. `retry_after` is in seconds."""

    message: str
    retry_after: int | None = None


class UnknownModel(Rejection, frozen=True, kw_only=True):
    """No model has this name or alias. `known`: the names that lists show; None: they would not help."""

    known: tuple[str, ...] | None = None


class NotLoaded(Rejection, frozen=True, kw_only=True):
    """The request must not load a model, and this one is not running."""


class QueueFull(Rejection, frozen=True, kw_only=True):
    """`server_pool.queue_size` requests wait already."""


class QueueTimeout(Rejection, frozen=True, kw_only=True):
    """The request waited for `server_pool.queue_timeout` and got no turn."""


class LoadFailed(Rejection, frozen=True, kw_only=True):
    """The model's server could not be started, or died before it could serve."""

    log_tail: tuple[str, ...] = ()


class Forbidden(Rejection, frozen=True, kw_only=True):
    """The hub does not give the model to this gateway, or the operator does not allow it."""


class NeverFits(Rejection, frozen=True, kw_only=True):
    """The model needs more memory than this machine has in all."""


class NoGpu(Rejection, frozen=True, kw_only=True):
    """The model must run on a GPU (`gpu.on_no_gpu`), and there is none at present."""


class ShuttingDown(Rejection, frozen=True, kw_only=True):
    """The gateway is draining."""


class RejectedError(Exception):
    """Carries a `Rejection` out of `Supervisor.lease`."""

    def __init__(self, reason: Rejection) -> None:
        super().__init__(reason.message)
        self.reason = reason


class Fault(msgspec.Struct, frozen=True):
    """A fault in the settings.

    `path` leads to the key, as keys and indices. `also` leads to a second key that is involved; its name ends
    the message. `about`: the keys below `path` that the message concerns; empty: all of them.
    """

    path: tuple[str | int, ...]
    message: str
    also: tuple[str | int, ...] | None = None
    about: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{dotted(self.path) or 'the top level'}: {self.text()}"

    def text(self, of_also: str = "") -> str:
        """Return the message without its place. `of_also` is added after the name of the second key."""
        return self.message if self.also is None else f"{self.message} {dotted(self.also)}{of_also}"


def dotted(path: Iterable[object]) -> str:
    """Write a key's path as errors do, such as `llama_cpp.models.coder.aliases[0]`."""
    steps = (f"[{step}]" if type(step) is int else f".{_one_word(step)}" for step in path)
    return "".join(steps).removeprefix(".")


def _one_word(step: object) -> str:
    text = str(step)
    return (text if text.isprintable() and text.strip() else repr(text))[:200]


class ConfigError(Exception):
    """The configuration cannot be used. The message names the key's path and what was expected.

    `faults`: the faults, if they are known by key.
    """

    def __init__(self, message: str, faults: Iterable[Fault] = ()) -> None:
        super().__init__(message)
        self.faults = tuple(faults)

    @classmethod
    def of(cls, faults: Iterable[Fault]) -> "ConfigError":
        """Make one error of these faults, each in a line."""
        faults = tuple(faults)
        return cls("\n".join(map(str, faults)), faults)
