"""All that crosses mailboxes. Facts are in the past tense, orders in the imperative.

Everything about a process carries the epoch of the start it belongs to, so that a late message about
an earlier process can be told from one about the present one. Times are seconds of the monotonic clock.
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
"""In which a llama-server finds the key that it asks for. Older ones ignore it."""


class ApiKey:
    """The secret by which a model server knows its gateway. It is not shown, and cannot be encoded."""

    __slots__ = ("secret",)

    def __init__(self, secret: str) -> None:
        self.secret = secret

    def __repr__(self) -> str:
        return "ApiKey(...)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ApiKey) and other.secret == self.secret

    def __hash__(self) -> int:
        return hash(self.secret)


class ServerAddress(msgspec.Struct, frozen=True):
    """Where a model's server answers HTTP, on this machine or another, and what a request to it needs.

    A server of several models calls this one `model`, and loads it anew for a request with other `options`.
    `thinks`: it may be asked to reason. `key` goes with each request; `refuses`: requests without the key are
    known to be refused. `sockets`: the inodes of the listening sockets, known where another program could
    begin to listen on the same port.
    """

    host: str
    port: int
    api: ServerApiName = "llama.cpp"
    model: str | None = None
    options: tuple[tuple[str, int], ...] = ()
    thinks: bool = True
    key: ApiKey | None = None
    refuses: bool = False
    sockets: frozenset[int] = frozenset()


class Message(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Base of everything that is put into a mailbox."""


# From the front door to the supervisor


class Acquire(Message, frozen=True, kw_only=True):
    """Ask for a lease. `slot` is false for work that occupies no generation slot (tokenizing).

    `client` is whose request it is: turns are shared between clients. `keep_alive`: seconds that the model
    stays loaded after it, instead of the policy's idle time-out.
    """

    ticket: int
    model: str
    deadline: float
    slot: bool = True
    load: bool = True
    client: str = ""
    keep_alive: float | None = None


class Cancel(Message, frozen=True, kw_only=True):
    """The requester left. Takes the ticket out of the queue, or gives back what it was granted."""

    ticket: int


class Released(Message, frozen=True, kw_only=True):
    """The lease is over. `served`: the model server answered to the end. `broken`: it hung up."""

    ticket: int
    served: bool
    broken: bool = False


class Shutdown(Message, frozen=True, kw_only=True):
    """Grant nothing more; stop each model when its leases end, and all of them at `deadline`."""

    deadline: float


# From a model actor to the supervisor


class Spawned(Message, frozen=True, kw_only=True):
    """The model's process group exists, so that its memory can be told from that of others."""

    model: str
    epoch: int
    process: int


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of a loaded model: predicted, and as its server told, for each GPU of its placement.

    `devices` are those that the server says its weights are on, in its own words, besides the host.
    """

    predicted: tuple[int, ...] = ()
    buffers: tuple[int | None, ...] = ()
    host_predicted: int = 0
    host_buffers: int | None = None
    devices: tuple[str, ...] = ()
    on_host: bool = False
    """It uses none of the GPUs that it was given, by its own word."""
    taken_over: bool = False
    """It was running already, so that its load says nothing of another one."""


class BecameReady(Message, frozen=True, kw_only=True):
    """The server of this epoch answers its health check. `variant` names the file that was chosen."""

    model: str
    epoch: int
    endpoint: ServerAddress
    variant: str | None = None
    figures: Figures = Figures()


class Fetched(Message, frozen=True, kw_only=True):
    """The model's files are on the disk, and this is what they will take; None: nothing is known of it."""

    model: str
    epoch: int
    demand: Demand | None = None


class Hung(Message, frozen=True, kw_only=True):
    """The server of this epoch does not answer any more, and is being ended."""

    model: str
    epoch: int


class Exited(Message, frozen=True, kw_only=True):
    """The server of this epoch is gone, with all its processes; or its files could not be had.

    No failure: it was told to stop.
    """

    model: str
    epoch: int
    failure: Failure | None


class Unusable(Message, frozen=True, kw_only=True):
    """The model was looked at, and cannot run as things are; a request will try all the same."""

    model: str
    failure: Failure


# From the GPU monitor to the supervisor


class MemorySampled(Message, frozen=True, kw_only=True):
    """What was measured at `asked_at` (monotonic seconds). GPUs that do not answer are not in it."""

    asked_at: float
    devices: tuple[Device, ...] = ()
    host: HostMemory | None = None


# From the supervisor to a model actor; all but `Learn` are effects of the planner, passed on as they are


class FetchFiles(Message, frozen=True):
    """Have the model's files on the disk. Begins the epoch."""

    model: str
    epoch: int


class StartServer(Message, frozen=True):
    """Run the model's server, whose files were fetched in this epoch. `place` is `placement` in words."""

    model: str
    epoch: int
    why: str
    placement: Placement | None = None
    place: str = "host"


class StopServer(Message, frozen=True):
    """End the server of this epoch, or the download of its files. `evicts`: to make room for another."""

    model: str
    epoch: int
    why: str
    evicts: bool = False


class Learn(Message, frozen=True, kw_only=True):
    """The model ran out of memory: from now on, predict so many bytes more of each GPU for such settings."""

    file: str
    settings: str
    surcharge: int


class Tick(Message, frozen=True, kw_only=True):
    """Time has passed: whatever was due may be due now."""


Event = (
    Acquire
    | Cancel
    | Released
    | Shutdown
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
    """The ticket has a lease. `model` is the canonical name, whatever alias was asked for."""

    ticket: int
    model: str
    epoch: int
    endpoint: ServerAddress
    variant: str | None = None
    """Which file of a repository it is."""
    queued: float
    """Seconds of waiting for a turn: what is neither of the other two."""
    fetched: float
    """Seconds of the download that this ticket waited for."""
    loaded: float
    """Seconds of the load that this ticket waited for; 0 when the model was ready."""
    place: str = "host"
    """Where the model runs, in words."""


class Reject(msgspec.Struct, frozen=True):
    """The ticket will get no lease."""

    ticket: int
    reason: Rejection


class Drain(msgspec.Struct, frozen=True):
    """The model takes no new requests, finishes its work, and yields. Only to be told: no order."""

    model: str
    epoch: int
    why: str


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What a load really took, to learn from.

    `seen`: the most bytes of each device that NVML saw it have. `ended`: it is gone, this is the last of it.
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
    """The model ran out of memory: it takes so many bytes more of each GPU than was predicted."""

    model: str
    surcharge: int
    demand: Demand
    placement: Placement


class Misplaced(msgspec.Struct, frozen=True):
    """The model does not run where it was put, but at `place`. Only to be told: no order."""

    model: str
    epoch: int
    place: str
    instead_of: str


class Look(msgspec.Struct, frozen=True):
    """Have the memory measured again, in so many seconds."""

    delay: float


class ShutDownComplete(msgspec.Struct, frozen=True):
    """Shut down is complete: nothing runs any more."""


Effect = (
    Grant
    | Reject
    | FetchFiles
    | StartServer
    | StopServer
    | Drain
    | Measured
    | RanOut
    | Misplaced
    | Look
    | ShutDownComplete
)
