"""How a model's server comes to run, behind two protocols that the model actor drives.

* `llama`          llama.cpp's servers as processes: the binary and the embedded one
* `docker`         the same in containers, by the Docker Engine
* `ollama`         models in Ollama daemons

What these share:

* `liveness`       whether a server that runs still answers; one that hangs is ended
* `health`         what a server says to questions of the gateway's own
* `child_process`  processes in sessions of their own, their output, and their end
* `environment`    which of the gateway's environment variables they get
* `ports`          ports for them, and `sockets`: whose a port is, as Linux tells
* `output_lines`   the output of a program as lines
"""

from collections.abc import Callable
from typing import Protocol

from actors.errors import Failure
from actors.hub.cache import ModelFiles
from actors.memory.predict import Prediction
from actors.messages import Figures, ServerAddress
from actors.placement.fit import Placement
from actors.placement.options import Demand
from actors.progress import Progress


class StartError(Exception):
    """A server could not be started; carries the `Failure`."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class ModelServer(Protocol):
    """One running server. Not necessarily a process of this machine."""

    @property
    def endpoint(self) -> ServerAddress:
        """Where it answers HTTP."""

    @property
    def exited(self) -> bool:
        """Whether it is gone."""

    @property
    def last_progress(self) -> float:
        """The monotonic time of its start or of its latest log line."""

    @property
    def lost_port(self) -> bool:
        """Whether it ended because another process took its port first, so that a second try may do."""

    @property
    def process(self) -> int:
        """The id of its session, by which its memory is known; 0 if it is not this machine's."""

    def became_ready(self) -> None:
        """Told once, when it has become healthy."""

    def figures(self) -> Figures:
        """What was predicted for it, and what it told that it allocated."""

    def log_tail(self) -> tuple[str, ...]:
        """Its latest log lines."""

    def explain_exit(self, when: str) -> Failure:
        """Why it ended, in words for the client; `when` completes "the model server ended ..."."""

    async def is_healthy(self) -> bool:
        """Whether its health check answers 200."""

    async def is_alive(self, timeout: float) -> bool:
        """Whether its health check answers anything in so many seconds. One not ours to end always is."""

    async def processor_seconds(self) -> float:
        """The processor time that it has used; 0 where that is not known."""

    async def wait_exited(self, timeout: float | None = None) -> None:
        """Return when it is gone, or after `timeout` seconds."""

    async def stop(self, *, at_once: bool = False) -> None:
        """End it and everything it started; returns when all is gone. May be called at any time.

        `at_once`: it does not listen to TERM.
        """


class Backend(Protocol):
    """Fetches the files of one model, and starts its server."""

    async def fetch(self, on_progress: Callable[[Progress], None]) -> ModelFiles:
        """Have the files on the disk. Raises `StartError`."""

    async def find(self) -> ModelFiles | None:
        """The files if they are on the disk already. Raises `StartError`."""

    async def appraise(self, files: ModelFiles) -> Demand | None:
        """Look into the files: what the model will take; None if that is not known. Raises `StartError`."""

    def predict(self, placement: Placement) -> Prediction | None:
        """What llama.cpp will allocate there, of the files last looked at; None if that is not known."""

    def learn(self, file: str, settings: str, surcharge: int) -> None:
        """It ran out of memory: predict so many bytes more of each GPU for such settings."""

    async def start(self, epoch: int, files: ModelFiles, placement: Placement | None) -> ModelServer:
        """Start it there without waiting until it is healthy. Raises `StartError`."""
