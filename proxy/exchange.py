"""The facts of one request: collected on its way, and accounted in one place."""

import asyncio
import os
import re
import time
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias

import structlog
from aiohttp import web

from actors.messages import Grant
from agents.host.pipeline import Run
from proxy.access.keys import Key
from proxy.access.limits import Admission
from proxy.errors import ApiError
from proxy.usage.capture import Capture
from proxy.wire.trace_context import Trace

log = structlog.get_logger("request")

REQUEST_ID_LIMIT = 128
IGNORED_HEADER = "X-Gateway-Ignored"
IGNORED_LIMIT = 1000
"""Most characters of that header."""
_NOT_IN_HEADERS = re.compile(r"[^ -~]")
CLIENT_LEFT = 499
"""nginx's status for a client that closed the connection. Only used in the log and metrics."""

Outcome = Literal["ok", "refused", "client_left", "failed"]


class Exchange:
    """The facts of one request. Times are monotonic seconds.

    Each of `accounts` is called with the finished exchange; they are synchronous and must not raise.
    """

    __slots__ = (
        "accounts",
        "action",
        "admission",
        "agent",
        "cancellation",
        "capture",
        "complete",
        "count_tokens",
        "endpoint",
        "epoch",
        "error",
        "fetched",
        "first_byte_at",
        "generates",
        "ignored",
        "key",
        "listed_as",
        "loaded",
        "method",
        "model",
        "path",
        "phase",
        "place",
        "preset",
        "prompt",
        "queued",
        "quiet",
        "recorded",
        "request_id",
        "run",
        "started",
        "started_at",
        "status",
        "stream",
        "task",
        "ticket",
        "tokens",
        "trace",
        "variant",
    )

    place: str | None
    """Where the model runs, in words."""
    prompt: str | None
    """What was restored of its prompt, in words."""

    def __init__(self, method: str, path: str, request_id: str, accounts: "tuple[Account, ...]" = ()) -> None:
        self.accounts, self.method, self.path = accounts, method, path
        self.endpoint = "unknown"
        """The route's template: unlike paths there are few."""
        self.request_id = request_id
        self.started_at, self.started, self.phase = time.monotonic(), time.time(), "reading"
        self.model: str | None = None
        self.preset: str | None = None
        """The name of the preset that is asked for, under which the request is accounted."""
        self.epoch: int | None = None
        self.variant: str | None = None
        self.place = self.prompt = None
        self.stream: bool | None = None
        self.status = self.ticket = 0
        self.error: str | None = None
        self.queued = self.fetched = self.loaded = 0.0
        self.first_byte_at: float | None = None
        self.tokens: dict[str, int] = {}
        self.ignored: dict[str, None] = {}
        """Names of the parts of the request that were left out, such as `text.verbosity`, in order."""
        self.key: Key | None = None
        """The client's key; None if it sent none and needs none."""
        self.generates = False
        """Whether it asks a model for an answer, which costs tokens."""
        self.admission: Admission | None = None
        """The request's place in the limits of its key."""
        self.run: Run | None = None
        """The run of the request's agents, if it has any."""
        self.complete = False
        """Whether the client has the whole answer although it closed the connection first."""
        self.quiet = False
        """Views and probes: logged at debug level, so that scraping does not fill the log."""
        self.trace: Trace | None = None
        """The trace that it belongs to, if it names a valid one."""
        self.agent: str | None = None
        """The agent whose call of a model it is; None for a client's request."""
        self.action: str | None = None
        """What the request does that only an operator may do: its method, path and query."""
        self.recorded = False
        """Whether it gets a row in the ledger: not if it only reads, nor what the door refuses."""
        self.capture: Capture | None = None
        """Its capture, if it is captured."""
        self.listed_as = ""
        """The id under which `RunningRequests` has it."""
        self.task: asyncio.Task[Any] | None = None
        """The task that answers it, while `RunningRequests` has it."""
        self.cancellation: ApiError | None = None
        """The error with which the operator ends it, until the answer has it."""
        self.count_tokens: Callable[[], int] | None = None
        """Counts the tokens of the answer so far, by the pieces in which a model server sends it."""

    def granted(self, grant: Grant) -> None:
        """Note the request's lease, which may be its second one."""
        self.model = self.preset or grant.model
        self.epoch = grant.epoch
        self.variant = grant.variant
        self.place = grant.place
        self.queued += grant.queued
        self.fetched += grant.fetched
        self.loaded += grant.loaded
        self.phase = "prompt"

    def cancel(self, error: ApiError) -> None:
        """End the request with this error, whatever it does at present."""
        if self.task is not None and self.cancellation is None:
            self.cancellation = error
            self.failed(error)
            self.task.cancel()

    def take_cancellation(self) -> ApiError | None:
        """Return the error of `cancel`, once, for the request to go on with; None if its client has left.

        To be called in the task of the request, for the `CancelledError` that it got.
        """
        error, self.cancellation = self.cancellation, None
        if error is not None and self.task is not None:
            self.task.uncancel()
        return error

    def queued_as(self, ticket: int) -> None:
        """Note the number under which the request waits."""
        self.ticket = ticket

    @property
    def client(self) -> str:
        """The name of the request's key; empty without a key."""
        return "" if self.key is None else self.key.name

    @property
    def inner(self) -> bool:
        """Whether it is an agent's call: logged at debug level, for its request's line includes it."""
        return self.agent is not None

    @property
    def agents(self) -> tuple[str, ...]:
        """The names of the request's agents."""
        return () if self.run is None else self.run.names

    @property
    def outcome(self) -> Outcome:
        """What became of it, by its status: below 400, a client's mistake, 499, and 500 or more."""
        if self.status == CLIENT_LEFT:
            return "client_left"
        return "ok" if self.status < 400 else "refused" if self.status < 500 else "failed"

    def may_use(self, *names: str) -> bool:
        """Whether the request's key may use the model with these names."""
        return self.key is None or self.key.rights.may_use_model(names)

    def may_use_agent(self, name: str) -> bool:
        """Whether the request's key may use this agent."""
        return self.key is None or self.key.rights.may_use_agent(name)

    @property
    def tokens_spent(self) -> int | None:
        """The tokens of prompt and answer; None if nobody counted them, as when the client left before.

        An agent's own answer has none: its calls of models are counted separately.
        """
        if self.epoch is None:
            return 0
        has_answer = self.generates and self.first_byte_at is not None and self.status < 400
        has_left = self.status == CLIENT_LEFT and (self.generates or self.admission is not None)
        if not self.tokens and (has_answer or has_left):
            return None
        return self.tokens.get("prompt_tokens", 0) + self.tokens.get("completion_tokens", 0)

    def ignore(self, names: Iterable[str]) -> None:
        """Note the fields, tools or parts that are left out; the answer's head and the log name them."""
        self.ignored.update(dict.fromkeys(names))

    @property
    def headers(self) -> dict[str, str]:
        """The headers of every answer to the request. Anthropic's clients look for `Request-Id`."""
        headers = {"X-Request-Id": self.request_id, "Request-Id": self.request_id}
        if self.run is not None:
            headers["X-Agents"] = self.run.header
        if self.place is not None:
            headers["X-Model-Place"] = self.place
        if self.prompt is not None:
            headers["X-Prompt"] = self.prompt
        if self.ignored:
            headers[IGNORED_HEADER] = _NOT_IN_HEADERS.sub("?", ", ".join(self.ignored))[:IGNORED_LIMIT]
        return headers

    def first_byte(self) -> None:
        """Note the beginning of the answer."""
        if self.first_byte_at is None:
            self.first_byte_at = time.monotonic()
            self.phase = "answer"

    def acts_on(self, name: str) -> None:
        """Add to the action what it is about, where the path does not say it."""
        if self.action is not None:
            self.action += f" {name}"

    def failed(self, error: ApiError) -> None:
        """Note that the answer is an error, or ends with one."""
        self.status = error.status
        self.error = error.message

    def client_left(self) -> None:
        """Note that the client closed its connection."""
        if self.complete:
            return
        self.status = CLIENT_LEFT
        self.error = f"the client left in phase {self.phase}"

    def finish(self) -> None:
        """Account for the request. Synchronous, so that a cancellation cannot prevent it."""
        self._log()
        for account in self.accounts:
            account(self)

    def _log(self) -> None:
        level = "debug" if self.quiet or self.inner else "warning" if self.status >= 500 else "info"
        outcome = "client left" if self.status == CLIENT_LEFT else "error" if self.error else "ok"
        fields: dict[str, object] = {
            "request_id": self.request_id,
            "method": self.method,
            "path": self.path,
            "status": self.status,
            "outcome": outcome,
        }
        if self.trace is not None:
            fields["trace_id"] = self.trace.id
        if self.key is not None:
            fields["key"] = self.key.name
        if self.model is not None:
            fields["model"] = self.model[:200]
        if self.variant is not None:
            fields["variant"] = self.variant
        if self.place is not None:
            fields["place"] = self.place
        if self.epoch is not None:
            fields["epoch"] = self.epoch
            fields["stream"] = self.stream
            fields["queued_ms"] = round(self.queued * 1000, 1)
            fields["fetched_ms"] = round(self.fetched * 1000, 1)
            fields["loaded_ms"] = round(self.loaded * 1000, 1)
        if self.first_byte_at is not None:
            fields["first_token_ms"] = round((self.first_byte_at - self.started_at) * 1000, 1)
        fields["total_ms"] = round((time.monotonic() - self.started_at) * 1000, 1)
        fields.update(self.tokens)
        if self.prompt is not None:
            fields["prompt"] = self.prompt
        if self.run is not None:
            fields["agents"] = self.run.log_field
        if self.ignored:
            fields["ignored"] = ", ".join(self.ignored)[:IGNORED_LIMIT]
        if self.error is not None:
            fields["error"] = self.error
        getattr(log, level)("request", **fields)


Account: TypeAlias = Callable[[Exchange], None]


EXCHANGE = web.RequestKey("exchange", Exchange)
"""The request's exchange."""


def request_id_of(header: str | None) -> str:
    """Return the client's own request id if it is valid, or a new one."""
    if header and len(header) <= REQUEST_ID_LIMIT and header.isascii() and header.isprintable():
        return header
    return os.urandom(16).hex()
