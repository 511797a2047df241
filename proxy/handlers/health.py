"""Reports of the present state. None of them loads a model or keeps it loaded."""

import time
from typing import Any

import msgspec
from aiohttp import web

from actors.config.changes import CurrentConfig
from actors.gpu.calibration import CardAccuracy
from actors.gpu.monitor import Gpu
from actors.gpu.observer import Observer
from actors.placement.ledger import Ledger
from actors.progress import Progress
from actors.scheduler.lifecycle import RUNNING, State
from actors.scheduler.model_states import ModelStatus
from actors.supervisor import Supervisor
from proxy.access.gate import GATE
from proxy.catalog import Catalog
from proxy.exchange import EXCHANGE


class Views:
    """Handlers that answer from one snapshot of the supervisor."""

    def __init__(
        self,
        supervisor: Supervisor,
        catalog: Catalog,
        observer: Observer,
        current: CurrentConfig,
        *,
        version: str,
    ) -> None:
        self._supervisor = supervisor
        self._catalog = catalog
        self._observer = observer
        self._current = current
        self.version = version
        self._started = time.monotonic()

    async def health(self, request: web.Request) -> web.Response:
        """Report the pool, each model's state, the queue, the version and the uptime.

        A request whose key may not see all models only learns that the gateway answers.
        """
        if not request.app[GATE].sees_all(request[EXCHANGE].key):
            return web.json_response({"status": "shutting down" if self._supervisor.closing else "ok"})
        models = self._supervisor.describe()
        running = [model for model in models if model.state in RUNNING]
        closing = self._supervisor.closing
        body = {
            "status": "shutting down" if closing else "ok",
            "version": self.version,
            "uptime_seconds": self.uptime,
            "pool": {
                "size": self._current.config.server_pool.size,
                "running": len(running),
                "ready": sum(model.state is State.READY for model in models),
                "busy_slots": sum(model.busy for model in models),
            },
            "queue": {"waiting": self._supervisor.waiting},
            **self.memory(),
            "prompts": self.prompts(),
            "ollama": [msgspec.to_builtins(state) for state in self._catalog.daemons.states],
            "servers": [_server(model) for model in running],
            "models": {model.name: _model(model, self._supervisor.progress(model.name)) for model in models},
        }
        return web.json_response(body, status=503 if closing else 200)

    @property
    def uptime(self) -> float:
        """Seconds since the gateway's start."""
        return round(time.monotonic() - self._started, 1)

    def memory(self) -> dict[str, Any]:
        """Report the memory of the GPUs and the host: sizes, holders, and the accuracy of predictions."""
        sample, ledger, gpu = self._observer.monitor.sample, self._supervisor.ledger, self._current.config.gpu
        return {
            "gpus": [_gpu(gpu, ledger) for gpu in sample.gpus],
            "gpus_lost": sample.lost,
            "gpu_error": sample.error,
            "gpu_policy": {
                "managed": gpu.managed,
                "allocation_strategy": gpu.strategy,
                "on_no_gpu": gpu.without_gpu,
                "partial_offload": gpu.partial_offload,
            },
            "host": {"total_memory": sample.host.total, "available_memory": sample.host.available},
            "predictions": [_card(card) for card in self._observer.cards],
        }

    def prompts(self) -> dict[str, Any] | None:
        """Report what is saved of what models have read; None if nothing is saved."""
        prompts = self._supervisor.prompts
        figures = prompts.figures() if prompts is not None else None
        return None if figures is None else msgspec.to_builtins(figures)

    async def live(self, _request: web.Request) -> web.Response:
        """Report that the process answers. A missing dependency is no reason to restart it."""
        return web.json_response({"status": "ok"})


def _server(model: ModelStatus) -> dict[str, Any]:
    where = f"{model.endpoint.host}:{model.endpoint.port}" if model.endpoint else None
    return {"model": model.name, "endpoint": where, "is_healthy": model.state is State.READY}


def _model(model: ModelStatus, progress: Progress | None) -> dict[str, Any]:
    download = progress and {
        "bytes": progress.have,
        "total_bytes": progress.total,
        "bytes_per_second": rounded(progress.rate),
        "seconds_left": rounded(progress.seconds_left),
    }
    return {
        "download": download,
        "state": str(model.state),
        "epoch": model.epoch,
        "slots": model.slots,
        "busy": model.busy,
        "waiting": model.waiting,
        "load_seconds": rounded(model.load_seconds),
        "ready_seconds": rounded(model.ready_seconds),
        "idle_seconds": rounded(model.idle_seconds),
        "place": model.place,
        "placement": placement_of(model),
        "failures": model.failures,
        "retry_in": rounded(model.retry_in),
        "error": model.error,
    }


def placement_of(model: ModelStatus) -> dict[str, Any] | None:
    """Describe where a model runs, with its memory in bytes by device; None if it does not run."""
    if (placement := model.placement) is None:
        return None
    return {
        "how": placement.how,
        "why": placement.why,
        "context": placement.option.context,
        "slot_context": placement.option.slot or placement.option.context,
        "certainty": placement.option.certainty,
        "layers": {share.device: share.layers for share in placement.shares},
        "predicted_memory": {share.device: share.bytes for share in placement.shares},
        "gpu_memory": dict(model.memory),
        "host_memory": placement.host,
    }


def _card(card: CardAccuracy) -> dict[str, Any]:
    """Report the errors of predictions on this kind of card: as parts, and the most bytes too few."""
    return msgspec.to_builtins(card)  # type: ignore[no-any-return]


def _gpu(gpu: Gpu, ledger: Ledger) -> dict[str, Any]:
    return {
        "index": gpu.index,
        "uuid": gpu.uuid,
        "name": gpu.name,
        "total_memory": gpu.total,
        "used_memory": gpu.used,
        "free_memory": gpu.free,
        "utilization": gpu.utilization,
        "temperature": gpu.temperature,
        "power_watts": gpu.power,
        "reserved_memory": {
            model: ledger.taken(holding, gpu.uuid)
            for model, holding in ledger.holdings.items()
            if gpu.uuid in holding.reserved
        },
        "foreign_memory": ledger.foreign.get(gpu.uuid),
        "room_for_models": ledger.rooms().get(gpu.uuid),
        "processes": [{"pid": pid, "used_memory": used} for pid, used in gpu.processes.items()],
        "driver": gpu.driver,
    }


def rounded(value: float | None) -> float | None:
    """Return seconds or rates with three decimals."""
    return None if value is None else round(value, 3)
