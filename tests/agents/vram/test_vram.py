"""The memory of the model that answered, in the answer."""

from pathlib import Path

import pytest

from agents.api import DeviceLoad, Load
from agents.testing import ScriptedLLM, run_agent
from agents.vram.agent import Vram

LOAD = Load(
    model="demo",
    file="f",
    settings="s",
    build="b",
    certainty="exact",
    seconds=1.23456,
    devices=(
        DeviceLoad(gpu="H100", driver="1", predicted=1010, buffers=1000, measured=1500, peak=1600),
        DeviceLoad(gpu="H100", driver="1", predicted=900),
    ),
    host_predicted=50,
    host_buffers=100,
)


async def test_predicted_against_measured(tmp_path: Path) -> None:
    loads = {"demo": LOAD}
    outcome = await run_agent(Vram, "hello", llm=ScriptedLLM("hi"), folder=tmp_path, memory=loads.get)
    assert outcome.answer.text == "hi"
    assert outcome.answer.extra["vram"] == {
        "model": "demo",
        "certainty": "exact",
        "load_seconds": 1.235,
        "devices": [
            {"gpu": "H100", "predicted": 1010, "buffers": 1000, "measured": 1600, "error": 0.01},
            {"gpu": "H100", "predicted": 900, "buffers": None, "measured": None, "error": None},
        ],
        "host": {"predicted": 50, "buffers": 100, "error": -0.5},
    }


async def test_a_model_that_is_loaded_for_the_answer_is_measured_at_its_end(tmp_path: Path) -> None:
    loads: dict[str, Load] = {}

    def said(_request: object) -> str:
        loads["demo"] = LOAD
        return "hi"

    outcome = await run_agent(Vram, "hello", llm=ScriptedLLM(said), folder=tmp_path, memory=loads.get)
    assert outcome.answer.extra["vram"]["certainty"] == "exact"


@pytest.mark.parametrize("model", ["demo", "other"])
async def test_what_is_not_known_is_said_so(tmp_path: Path, model: str) -> None:
    outcome = await run_agent(Vram, "hello", llm=ScriptedLLM("hi"), folder=tmp_path)
    assert "no load of this model has been measured yet" in outcome.answer.extra["vram"]["note"]
