"""Finds or pulls, appraises, and loads the models of Ollama daemons."""

from collections.abc import Callable
from pathlib import Path

import structlog

from actors.errors import Failure
from actors.hub.cache import ModelFiles
from actors.memory.prediction.results import Prediction
from actors.model_names import ollama_name
from actors.placement.fit import Placement
from actors.placement.options import Demand
from actors.progress import Progress
from actors.servers import Appraised, StartError, Trial
from actors.servers.ollama.client import OllamaError, Running, Shown, Tag
from actors.servers.ollama.daemon import Daemon
from actors.servers.ollama.memory import context_of, default_context, demand_of
from actors.servers.ollama.server import UNLOAD_TIMEOUT, OllamaServer, failure_of

log = structlog.get_logger("model")


class OllamaBackend:
    """One model of one daemon. Implements `actors.servers.Backend`.

    `pull`: the model may be downloaded. `context`: tokens; None leaves them to the Modelfile and the daemon.
    `gpus` returns the bytes of all GPUs of the daemon, from which the daemon chooses a context. `elsewhere`:
    the daemon uses none of this machine's memory.
    """

    def __init__(
        self,
        model: str,
        daemon: Daemon,
        *,
        pull: bool = False,
        context: int | None = None,
        gpus: Callable[[], int] = lambda: 0,
        elsewhere: bool = False,
        unload_timeout: float = UNLOAD_TIMEOUT,
    ) -> None:
        self._model = model
        self.daemon = daemon
        self._pull = pull
        self._context = context
        self._gpus = gpus
        self._elsewhere = elsewhere
        self._unload_timeout = unload_timeout
        self._measured: dict[bool, Running] = {}
        """The measured memory: on GPUs, and on the host alone."""
        self._seconds: float | None = None
        self._surcharge = 0
        self._shown = Shown()
        self._digest = ""

    async def fetch(self, on_progress: Callable[[Progress], None]) -> ModelFiles:
        """Find the model in the daemon, or let the daemon pull it."""
        if (files := await self.find()) is not None:
            return files
        if not self._pull:
            message = f"Ollama daemon {self.daemon.name!r} has no model {self._model!r}, and must not pull it"
            raise StartError(Failure(message=message, retryable=False, kind="not_found"))
        try:
            await self.daemon.pull(self._model, on_progress)
        except OllamaError as error:
            raise StartError(failure_of(error)) from error
        if (files := await self.find()) is None:
            message = f"Ollama daemon {self.daemon.name!r} pulled {self._model!r}, and does not list it"
            raise StartError(Failure(message=message))
        return files

    async def find(self) -> ModelFiles | None:
        """Return the model's name as a path, if the daemon has the model."""
        return None if await self._tag() is None else ModelFiles(path=Path(self._model))

    async def _tag(self) -> Tag | None:
        try:
            tags = await self.daemon.tags()
        except OllamaError as error:
            raise StartError(failure_of(error)) from error
        key = ollama_name(self._model)
        tag = next((tag for tag in tags if ollama_name(tag.name) == key), None)
        if tag is not None and tag.remote_host:
            message = f"Ollama's model {self._model!r} runs at {tag.remote_host}, and not on this machine"
            raise StartError(Failure(message=message, retryable=False, kind="forbidden"))
        return tag

    async def appraise(self, files: ModelFiles) -> Demand | None:
        """Return the measured demand, or an estimate by size and header; None for a daemon elsewhere."""
        tag = await self._tag()
        if tag is None:
            message = f"Ollama daemon {self.daemon.name!r} no longer has the model {self._model!r}"
            raise StartError(Failure(message=message, kind="not_found"))
        try:
            shown = await self.daemon.show(self._model)
        except OllamaError as error:
            raise StartError(failure_of(error)) from error
        if tag.digest != self._digest:
            self._digest = tag.digest
            self._measured.clear()
            self._surcharge = 0
        self._shown = shown
        if self._elsewhere:
            return None
        default = default_context(self._gpus())
        context = context_of(shown.model_info, shown.parameters, self._context, default)
        return demand_of(
            tag.size,
            shown.model_info,
            context,
            on_gpus=self._measured.get(True),
            on_host=self._measured.get(False),
            surcharge=self._surcharge,
            load_seconds=self._seconds,
        )

    async def try_out(self, files: ModelFiles, trial: Trial) -> Appraised:
        """Raise `StartError`: the daemon decides."""
        message = f"of {self._model!r} no settings can be tried: its Ollama daemon decides about them"
        raise StartError(Failure(message=message, retryable=False))

    def predict(self, placement: Placement) -> Prediction | None:
        """Return None: the components are unknown."""
        return None

    def learn(self, file: str, settings: str, surcharge: int) -> None:
        """Raise predictions by `surcharge` bytes per GPU, because memory ran out."""
        self._surcharge += surcharge

    async def start(self, epoch: int, files: ModelFiles, placement: Placement | None) -> OllamaServer:
        """Load the model. The daemon chooses among GPUs; only a placement on the host is passed on."""
        options: dict[str, int] = {}
        if self._context is not None:
            options["num_ctx"] = self._context
        placed = placement is not None and placement.managed and not self._elsewhere
        on_host = placed and placement is not None and not placement.shares
        if on_host:
            options["num_gpu"] = 0

        def on_loaded(running: Running, seconds: float) -> None:
            self._seconds = seconds
            if placement is not None and placement.shares and not running.size_vram:
                log.warning("Ollama runs the model on the host", model=self._model, daemon=self.daemon.name)
            if running.size:
                self._measured[running.size_vram > 0] = running
            log.info(
                "memory reported by Ollama",
                model=self._model,
                epoch=epoch,
                bytes=running.size,
                on_gpus=running.size_vram,
                context=running.context_length,
            )

        return OllamaServer(
            self.daemon,
            self._model,
            options,
            placement,
            on_loaded,
            weights=self._shown.weights,
            embeds=self._shown.only_embeds,
            thinks="thinking" in self._shown.capabilities,
            unload_timeout=self._unload_timeout,
        )
