"""Loads the models that are to be ready before their first request."""

import structlog

from actors.config.schema import Config
from actors.errors import RejectedError
from actors.servers import StartError
from actors.supervisor import Supervisor

log = structlog.get_logger("gateway")


async def preload(config: Config, supervisor: Supervisor) -> None:
    """Load the models with `preload`, one after the other, that of the highest priority first.

    None makes room for itself by stopping others. After a model that cannot be loaded the next one follows.
    """
    models = {**config.llama_cpp.models, **config.ollama.models}
    wanted = [name for name, model in models.items() if model.preload]
    for name in sorted(wanted, key=lambda name: -models[name].priority):
        try:
            plan = await supervisor.plan(name)
            if plan is not None and plan["evicts"]:
                others = ", ".join(repr(victim["model"]) for victim in plan["evicts"])
                log.warning("model not preloaded", model=name, reason=f"it has no room beside {others}")
                continue
            async with supervisor.lease(name, timeout=config.server_pool.queue_timeout, slot=False) as lease:
                lease.served = True
            log.info("model preloaded", model=name)
        except (RejectedError, StartError) as error:
            log.warning("model not preloaded", model=name, reason=str(error))
