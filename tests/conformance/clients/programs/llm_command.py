"""Simon Willison's `llm` command, with the gateway as an OpenAI model of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

from steps import GATEWAY, MODEL, WEATHER, folder_of_its_own, run, step

FOLDER = folder_of_its_own("llm")
MODELS = f"""- model_id: local
  model_name: {MODEL}
  api_base: {GATEWAY}/v1
  supports_tools: true
  supports_schema: true
"""
(FOLDER / "extra-openai-models.yaml").write_text(MODELS)
WEATHER_TOOL = """
def get_weather(city: str) -> str:
    "Get the weather of a city"
    return "21 degrees in " + city
"""


def llm(*arguments: str) -> str:
    environment = {**os.environ, "LLM_USER_PATH": str(FOLDER), "OPENAI_API_KEY": "none"}
    command = [str(Path(sys.executable).parent / "llm"), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    return done.stdout


@step("text and streaming")
def text() -> None:
    assert llm("-m", "local", "hello").strip()
    assert llm("-m", "local", "--no-stream", "hello").strip()


@step("tools")
def tools() -> None:
    assert llm("-m", "local", "--functions", WEATHER_TOOL, WEATHER).strip()
    assert "21 degrees in Paris" in llm("logs", "-n", "2", "--json")


@step("structured output")
def structured() -> None:
    assert set(json.loads(llm("-m", "local", "--schema", "name, age int", "hello"))) == {"name", "age"}


run()
