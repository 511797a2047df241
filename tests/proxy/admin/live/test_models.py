"""A model, as `/admin/models` describes it."""

import math
from typing import Any

import pytest

from actors.progress import Progress
from actors.scheduler.lifecycle import State
from tests.proxy.scripted import FakeSupervisor, door, model_status


@pytest.mark.parametrize(
    ("configured", "keep_alive", "shown"),
    [(0, None, None), (60, None, 60), (60, 5, 5), (0, 5, 5), (60, math.inf, None), (60, 0, 0)],
)
async def test_after_how_many_idle_seconds_it_is_unloaded(
    configured: float, keep_alive: float | None, shown: float | None
) -> None:
    (model,) = await described(idle_timeout=configured, keep_alive=keep_alive)
    assert model["idle_timeout"] == shown


async def test_its_download() -> None:
    (model,) = await described(Progress(have=1, total=4), state=State.FETCHING)
    assert model["state"] == "fetching"
    assert model["download"] == {
        "bytes": 1,
        "total_bytes": 4,
        "bytes_per_second": None,
        "seconds_left": None,
    }
    assert model["size"] is model["context"] is model["capabilities"] is None


async def described(download: Progress | None = None, **fields: Any) -> list[dict[str, Any]]:
    def prepare(supervisor: FakeSupervisor) -> None:
        supervisor.models.append(model_status("demo", **fields))
        supervisor.download = download

    async with door(prepare=prepare) as opened, opened.session.get("/admin/models") as answer:
        models: list[dict[str, Any]] = (await answer.json())["models"]
        return models
