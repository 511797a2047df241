"""All messages between actors. Facts are in the past tense, orders in the imperative.

A message about a process carries the epoch of its start, so that a late message about an earlier process is
not taken for one about the present process. Times are seconds of the monotonic clock.
"""

from collections.abc import Mapping
from typing import Literal

import msgspec

from actors.errors import Failure, Rejection
from actors.placement.fit import Placement
from actors.placement.ledger import Device, HostMemory
from actors.placement.options import Demand

ServerApiName = Literal["llama.cpp", "ollama"]
"""The API that a model's server speaks: llama.cpp's, which is OpenAI's and Anthropic's too, or Ollama's."""


KEY_VARIABLE = "LLAMA_API_KEY"
"""The environment variable from which llama-server takes its key. Older versions ignore it."""


class ApiKey:
    """The secret by which a model server recognizes its gateway. It is never shown and cannot be encoded."""

    __slots__ = ("secret",)

    def __init__(self, secret: str) -> None:
        self.secret = secret

    def __repr__(self) -> str:
        return "ApiKey(...)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ApiKey) and other.secret == self.secret

    def __hash__(self) -> int:
        return hash(self.secret)


Gives = Literal["text", "vectors", "scores"]
"""What a model answers with: text, embeddings, or how well texts fit a question."""


class ServerAddress(msgspec.Struct, frozen=True):
    """The HTTP address of a model's server, on any machine, and what a request to it must contain.

    `model`: the name of the model on a server of several models, which reloads it for a request with other
    `options`. `thinks`: the model can reason; `gives`: all that it can answer with. `key` is sent with each
    request; `refuses`: the server is known to refuse requests without the key. `sockets`: the inodes of the
    listening sockets, known where another program could listen on the same port.
    """

    host: str
    port: int
    api: ServerApiName = "llama.cpp"
    model: str | None = None
    options: tuple[tuple[str, int], ...] = ()
    thinks: bool = True
    gives: Gives = "text"
    key: ApiKey | None = None
    refuses: bool = False
    sockets: frozenset[int] = frozenset()


class Message(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Base of all messages."""


# From the front door to the supervisor


class Acquire(Message, frozen=True, kw_only=True):
    """Request a lease. `slot` is false for work that occupies no slot, such as tokenizing.

    `client` identifies the requester: turns are shared between clients. `keep_alive`: seconds that the model
    stays loaded after the request, instead of the policy's idle time-out.
    """

    ticket: int
    model: str
    deadline: float
    slot: bool = True
    load: bool = True
    client: str = ""
    keep_alive: float | None = None


class Cancel(Message, frozen=True, kw_only=True):
    """The requester has left. Removes the ticket from the queue, or ends its lease."""

    ticket: int


class Released(Message, frozen=True, kw_only=True):
    """The lease is over.

    `served`: the model server answered completely. `broken`: it closed the connection.
    """

    ticket: int
    served: bool
    broken: bool = False


class Shutdown(Message, frozen=True, kw_only=True):
    """Grant no more leases. Stop each model when its leases end, and all models at `deadline`."""

    deadline: float


# From the operator to the supervisor


class Unload(Message, frozen=True, kw_only=True):
    """Stop the model when the requests that are there now have ended, or `at_once`."""

    model: str
    at_once: bool = False


class Pin(Message, frozen=True, kw_only=True):
    """Keep the model loaded, whoever needs its memory and however long it is idle; or no longer."""

    model: str
    pinned: bool


class Reset(Message, frozen=True, kw_only=True):
    """Forget the model's failures, so that the next request is not refused because of them."""

    model: str


# From a model actor to the supervisor


class Spawned(Message, frozen=True, kw_only=True):
    """The model's process group exists, by which its memory is recognized."""

    model: str
    epoch: int
    process: int


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of a loaded model for each GPU of its placement: as predicted, and as its server reported.

    `devices`: the server's own names of the devices that hold weights, besides the host.
    """

    predicted: tuple[int, ...] = ()
    buffers: tuple[int | None, ...] = ()
    host_predicted: int = 0
    host_buffers: int | None = None
    devices: tuple[str, ...] = ()
    on_host: bool = False
    """Whether the server reported that it uses none of its GPUs."""
    taken_over: bool = False
    """The server was running already, so its load time says nothing about other loads."""


class BecameReady(Message, frozen=True, kw_only=True):
    """The server of this epoch passes its health check. `variant` names the chosen file."""

    model: str
    epoch: int
    endpoint: ServerAddress
    variant: str | None = None
    figures: Figures = Figures()


class Fetched(Message, frozen=True, kw_only=True):
    """The model's files are on the disk. `demand` is the memory that they will take; None if unknown."""

    model: str
    epoch: int
    demand: Demand | None = None


class Hung(Message, frozen=True, kw_only=True):
    """The server of this epoch has stopped answering and is being killed."""

    model: str
    epoch: int


class Exited(Message, frozen=True, kw_only=True):
    """The server of this epoch is gone with all its processes, or its files could not be fetched.

    `failure` is None if the server was told to stop.
    """

    model: str
    epoch: int
    failure: Failure | None


class Unusable(Message, frozen=True, kw_only=True):
    """A check found that the model cannot run at present. A request will try nevertheless."""

    model: str
    failure: Failure


# From the GPU monitor to the supervisor


class MemorySampled(Message, frozen=True, kw_only=True):
    """The memory measured at `asked_at`, without GPUs that do not answer."""

    asked_at: float
    devices: tuple[Device, ...] = ()
    host: HostMemory | None = None


# From the supervisor to a model actor; all but `Learn` are effects of the planner, passed on as they are


class FetchFiles(Message, frozen=True):
    """Make sure that the model's files are on the disk. Begins the epoch."""

    model: str
    epoch: int


class StartServer(Message, frozen=True):
    """Start the model's server; its files were fetched in this epoch. `place` is `placement` in words."""

    model: str
    epoch: int
    why: str
    placement: Placement | None = None
    place: str = "host"


class StopServer(Message, frozen=True):
    """Stop the server of this epoch, or the download of its files. `evicts`: another model needs the room."""

    model: str
    epoch: int
    why: str
    evicts: bool = False


class Learn(Message, frozen=True, kw_only=True):
    """The model ran out of memory: add `surcharge` bytes per GPU to predictions for these settings."""

    file: str
    settings: str
    surcharge: int


class Tick(Message, frozen=True, kw_only=True):
    """Time has passed, so something may be due."""


Event = (
    Acquire
    | Cancel
    | Released
    | Shutdown
    | Unload
    | Pin
    | Reset
    | Fetched
    | Spawned
    | BecameReady
    | Hung
    | Exited
    | Unusable
    | MemorySampled
    | Tick
)
Order = FetchFiles | StartServer | StopServer | Learn


# What the planner wants done


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """The ticket has a lease. `model` is the canonical name, even if the request named an alias."""

    ticket: int
    model: str
    epoch: int
    endpoint: ServerAddress
    variant: str | None = None
    """The chosen file of a repository."""
    queued: float
    """Seconds of waiting for a turn, without `fetched` and `loaded`."""
    fetched: float
    """Seconds for which the ticket waited for a download."""
    loaded: float
    """Seconds for which the ticket waited for the load; 0 if the model was ready."""
    place: str = "host"
    """The model's place in words."""


class Reject(msgspec.Struct, frozen=True):
    """The ticket gets no lease."""

    ticket: int
    reason: Rejection


class Drain(msgspec.Struct, frozen=True):
    """The model takes no new requests, finishes its work, and makes room. For the log: not an order."""

    model: str
    epoch: int
    why: str


class Forgotten(msgspec.Struct, frozen=True):
    """The model is no longer configured, and nothing of it runs any more."""

    model: str


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """The measured memory of a load, to be recorded.

    `seen`: the most bytes that NVML reported on each device. `ended`: the server is gone; the figures are
    final.
    """

    model: str
    epoch: int
    demand: Demand
    placement: Placement
    figures: Figures
    seen: Mapping[str, int]
    seconds: float
    ended: bool = False


class RanOut(msgspec.Struct, frozen=True):
    """The model ran out of memory: it takes `surcharge` bytes per GPU more than predicted."""

    model: str
    surcharge: int
    demand: Demand
    placement: Placement


class Misplaced(msgspec.Struct, frozen=True):
    """The model does not run where it was placed, but at `place`. For the log: not an order."""

    model: str
    epoch: int
    place: str
    instead_of: str


class Look(msgspec.Struct, frozen=True):
    """Measure the memory again in `delay` seconds."""

    delay: float


class ShutDownComplete(msgspec.Struct, frozen=True):
    """The shutdown is complete: no model runs."""


Effect = (
    Grant
    | Reject
    | FetchFiles
    | StartServer
    | StopServer
    | Drain
    | Forgotten
    | Measured
    | RanOut
    | Misplaced
    | Look
    | ShutDownComplete
)
