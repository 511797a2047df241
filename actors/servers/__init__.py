"""Starts, watches and stops model servers, behind two protocols that the model actor uses.

* `llama`          llama.cpp's servers as processes: the binary and the embedded one
* `docker`         llama.cpp's servers in containers, through the Docker Engine
* `ollama`         models in Ollama daemons

Shared by these:

* `liveness`       whether a running server still answers; a hung one is stopped
* `health`         the gateway's own requests to a server
* `child_process`  child processes in their own sessions: start, output, end
* `environment`    the environment variables that model servers inherit
* `ports`          ports for model servers, and `sockets`: the owner of a port, on Linux
* `output_lines`   the output of a program as lines
"""

from collections.abc import Callable
from typing import Protocol

import msgspec

from actors.errors import Failure
from actors.hub.cache import ModelFiles
from actors.memory.prediction.results import Prediction
from actors.messages import Figures, ServerAddress
from actors.placement.fit import Placement
from actors.placement.options import Demand
from actors.progress import Progress
from actors.prompts.identity import Cache


class StartError(Exception):
    """A server could not be started. Carries the `Failure`."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """Settings to try instead of a model's own: tokens of context over all slots, slots, the cache's type."""

    ctx: int | None = None
    parallel: int | None = None
    kv: str | None = None


class Appraised(Protocol):
    """What a model would take with tried settings."""

    demand: Demand

    def predict(self, placement: Placement) -> Prediction:
        """Predict llama.cpp's allocation at a placement. Takes some milliseconds."""


class ModelServer(Protocol):
    """One running server. Not necessarily a process of this machine."""

    @property
    def endpoint(self) -> ServerAddress:
        """The address at which the server answers HTTP."""

    @property
    def exited(self) -> bool:
        """Whether the server is gone."""

    @property
    def last_progress(self) -> float:
        """Monotonic time of the server's start or of its latest log line."""

    @property
    def lost_port(self) -> bool:
        """Whether the server ended because another process took its port, so that a retry may succeed."""

    @property
    def cache(self) -> Cache | None:
        """The server's cache, if prompts in it can be saved."""

    @property
    def process(self) -> int:
        """The id of the server's session, by which its memory is recognized; 0 on another machine."""

    def became_ready(self) -> None:
        """Called once, when the server has become healthy."""

    def figures(self) -> Figures:
        """Return the predicted memory, and the memory that the server reported."""

    def log_tail(self) -> tuple[str, ...]:
        """Return the latest log lines."""

    def explain_exit(self, when: str) -> Failure:
        """Say why the server ended, for the client; `when` completes "the model server ended ..."."""

    async def is_healthy(self) -> bool:
        """Whether the health check answers 200."""

    async def is_alive(self, timeout: float) -> bool:
        """Whether the health check answers within `timeout` seconds.

        True for a server that is not ours to stop.
        """

    async def processor_seconds(self) -> float:
        """Return the processor seconds that the server has used; 0 if unknown."""

    async def wait_exited(self, timeout: float | None = None) -> None:
        """Wait until the server is gone, at most `timeout` seconds."""

    async def stop(self, *, at_once: bool = False) -> None:
        """Stop the server and everything that it started; return when all is gone. May be called at any time.

        `at_once`: kill it, because it does not react to TERM.
        """


class Backend(Protocol):
    """Fetches the files of one model, and starts its server."""

    async def fetch(self, on_progress: Callable[[Progress], None]) -> ModelFiles:
        """Make sure that the files are on the disk. Raises `StartError`."""

    async def find(self) -> ModelFiles | None:
        """Return the files if they are on the disk. Raises `StartError`."""

    async def appraise(self, files: ModelFiles) -> Demand | None:
        """Read the files and return the model's demand of memory; None if unknown. Raises `StartError`."""

    def predict(self, placement: Placement) -> Prediction | None:
        """Predict llama.cpp's allocation at a placement, for the latest files; None if unknown."""

    async def try_out(self, files: ModelFiles, trial: Trial) -> Appraised:
        """Appraise the files with other settings; nothing is kept of it. Raises `StartError`."""

    def learn(self, file: str, settings: str, surcharge: int) -> None:
        """Add `surcharge` bytes per GPU to predictions for these settings, because memory ran out."""

    async def start(self, epoch: int, files: ModelFiles, placement: Placement | None) -> ModelServer:
        """Start the server at a placement, without waiting until it is healthy. Raises `StartError`."""
