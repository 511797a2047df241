"""The table of a model's states and moves. Any other move is a defect and raises an error.

STOPPED -> FETCHING -> FETCHED -> STARTING -> READY -> DRAINING -> STOPPING -> STOPPED
FETCHING, STARTING, READY, DRAINING -> FAILED -> FETCHING
FAILED -> STOPPED, if its settings have changed or its failures are forgotten
STOPPED -> FAILED, if a check finds the fault beforehand

Fetching comes first even for a file on the disk: it finds the file and predicts the memory.
"""

import enum
from collections import deque


class State(enum.StrEnum):
    """The state of a model. `/health` shows these values."""

    STOPPED = "stopped"
    FETCHING = "fetching"
    FETCHED = "fetched"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"
    FAILED = "failed"


class Move(enum.StrEnum):
    """A change of a model's state."""

    FETCH = "fetch"
    FETCHED = "fetched"
    START = "start"
    READY = "ready"
    DRAIN = "drain"
    RESUME = "resume"
    STOP = "stop"
    STOPPED = "stopped"
    FAIL = "fail"


TRANSITIONS: dict[tuple[State, Move], State] = {
    (State.STOPPED, Move.FETCH): State.FETCHING,
    (State.STOPPED, Move.FAIL): State.FAILED,
    (State.FAILED, Move.FETCH): State.FETCHING,
    (State.FAILED, Move.STOP): State.STOPPED,
    (State.FETCHING, Move.FETCHED): State.FETCHED,
    (State.FETCHING, Move.STOP): State.STOPPED,
    (State.FETCHING, Move.FAIL): State.FAILED,
    (State.FETCHED, Move.STOP): State.STOPPED,
    (State.FETCHED, Move.START): State.STARTING,
    (State.STARTING, Move.READY): State.READY,
    (State.STARTING, Move.STOP): State.STOPPING,
    (State.STARTING, Move.FAIL): State.FAILED,
    (State.READY, Move.DRAIN): State.DRAINING,
    (State.READY, Move.STOP): State.STOPPING,
    (State.READY, Move.FAIL): State.FAILED,
    (State.DRAINING, Move.RESUME): State.READY,
    (State.DRAINING, Move.STOP): State.STOPPING,
    (State.DRAINING, Move.FAIL): State.FAILED,
    (State.STOPPING, Move.STOPPED): State.STOPPED,
}

RUNNING = frozenset({State.STARTING, State.READY, State.DRAINING, State.STOPPING})
"""States in which a process of the model may exist, so that the model counts against the pool's size."""

AT_REST = (State.STOPPED, State.FAILED)
"""States in which nothing is to be done for a model that nobody waits for."""


class InvalidTransitionError(Exception):
    """A move that is not in the table, with the moves before it."""


class Life:
    """The state of one model, the epoch of its present run (from fetching to its end), and its last moves."""

    __slots__ = ("epoch", "name", "state", "story")

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = State.STOPPED
        self.epoch = 0
        self.story: deque[str] = deque(maxlen=12)

    def move(self, move: Move) -> None:
        """Change the state by the table. Raises `InvalidTransitionError`."""
        target = TRANSITIONS.get((self.state, move))
        if target is None:
            story = " | ".join(self.story)
            raise InvalidTransitionError(
                f"{self.name}: no way to {move} from {self.state} (epoch {self.epoch}; {story})"
            )
        if move is Move.FETCH:
            self.epoch += 1
        self.story.append(f"{self.epoch}: {self.state} -{move}-> {target}")
        self.state = target
