"""Why a request got no lease: values, not exceptions, until they leave the supervisor.

The front door has one table from these types to HTTP statuses (`proxy.errors`).
"""

from typing import Literal

import msgspec

FailureKind = Literal["failed", "not_found", "forbidden", "too_large", "out_of_memory"]


class Failure(msgspec.Struct, frozen=True):
    """Why a model server is not running. `retryable` is false when only the operator can mend it.

    `lacking`: bytes that could not be had, where memory ran out and that was told.
    """

    message: str
    retryable: bool = True
    log_tail: tuple[str, ...] = ()
    kind: FailureKind = "failed"
    lacking: int | None = None


class Rejection(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Base of all the ways in which the supervisor says no. `retry_after` is in seconds."""

    message: str
    retry_after: int | None = None


class UnknownModel(Rejection, frozen=True, kw_only=True):
    """No model has this name or alias."""


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
    """This machine has not the memory for the model, however empty it is."""


class NoGpu(Rejection, frozen=True, kw_only=True):
    """The model must run on a GPU (`gpu.on_no_gpu`), and there is none at present."""


class ShuttingDown(Rejection, frozen=True, kw_only=True):
    """The gateway is draining."""


class RejectedError(Exception):
    """Carries a `Rejection` out of `Supervisor.lease`."""

    def __init__(self, reason: Rejection) -> None:
        super().__init__(reason.message)
        self.reason = reason


class ConfigError(Exception):
    """The configuration cannot be used. The message names the key's path and what was expected."""
