"""All that crosses mailboxes. Facts are in the past tense, orders in the imperative.

Everything about a process carries the epoch of the start it belongs to, so that a late message about
an earlier process can be told from one about the present one. Times are seconds of the monotonic clock.
"""

import msgspec

from actors.errors import Failure, Rejection


class Endpoint(msgspec.Struct, frozen=True):
    """Where a model's server answers HTTP. Not necessarily on this machine."""

    host: str
    port: int


class Message(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Base of everything that is put into a mailbox."""


# From the front door to the supervisor


class Acquire(Message, frozen=True, kw_only=True):
    """Ask for a lease. `slot` is false for work that occupies no generation slot (tokenizing)."""

    ticket: int
    model: str
    deadline: float
    slot: bool = True
    load: bool = True


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


class BecameReady(Message, frozen=True, kw_only=True):
    """The server of this epoch answers its health check. `variant` names the file that was chosen."""

    model: str
    epoch: int
    endpoint: Endpoint
    variant: str | None = None


class Fetched(Message, frozen=True, kw_only=True):
    """The model's files are on the disk."""

    model: str
    epoch: int


class Exited(Message, frozen=True, kw_only=True):
    """The server of this epoch is gone, with all its processes; or its files could not be had.

    No failure: it was told to stop.
    """

    model: str
    epoch: int
    failure: Failure | None


# From the supervisor to a model actor


class FetchFiles(Message, frozen=True, kw_only=True):
    """Have the model's files on the disk. Begins the epoch."""

    epoch: int


class EnsureReady(Message, frozen=True, kw_only=True):
    """Run the model's server, whose files were fetched in this epoch."""

    epoch: int


class Stop(Message, frozen=True, kw_only=True):
    """End the server of this epoch, or the fetching of its files."""

    epoch: int


class Tick(Message, frozen=True, kw_only=True):
    """Time has passed: whatever was due may be due now."""


Event = Acquire | Cancel | Released | Shutdown | Fetched | BecameReady | Exited | Tick
Order = FetchFiles | EnsureReady | Stop


# What the planner wants done


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """The ticket has a lease. `model` is the canonical name, whatever alias was asked for."""

    ticket: int
    model: str
    epoch: int
    endpoint: Endpoint
    variant: str | None = None
    """Which file of a repository it is."""
    queued: float
    """Seconds of waiting for a turn: what is neither of the other two."""
    fetched: float
    """Seconds of the download that this ticket waited for."""
    loaded: float
    """Seconds of the load that this ticket waited for; 0 when the model was ready."""


class Reject(msgspec.Struct, frozen=True):
    """The ticket will get no lease."""

    ticket: int
    reason: Rejection


class Fetch(msgspec.Struct, frozen=True):
    """Tell the model's actor to have its files."""

    model: str
    epoch: int


class Start(msgspec.Struct, frozen=True):
    """Tell the model's actor to start its server."""

    model: str
    epoch: int
    why: str


class Halt(msgspec.Struct, frozen=True):
    """Tell the model's actor to stop its server."""

    model: str
    epoch: int
    why: str


class Finished(msgspec.Struct, frozen=True):
    """Shut down is complete: nothing runs any more."""


Effect = Grant | Reject | Fetch | Start | Halt | Finished
