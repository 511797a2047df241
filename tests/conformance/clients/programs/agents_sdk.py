"""OpenAI's Agents SDK, as its quickstart has it."""

import os

from steps import GATEWAY, MODEL, THINKER, WEATHER, run, step

os.environ |= {"OPENAI_BASE_URL": f"{GATEWAY}/v1", "OPENAI_API_KEY": "none"}

from openai import AsyncOpenAI
from openai.types.shared import Reasoning
from pydantic import BaseModel

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)

set_tracing_disabled(True)
asked: list[str] = []


class Person(BaseModel):
    """A structured answer."""

    name: str
    age: int


@function_tool
def get_weather(city: str) -> str:
    """Get the weather of a city."""
    asked.append(city)
    return f"21 degrees in {city}"


@step("text")
async def text() -> None:
    assert (await Runner.run(Agent(name="A", instructions="Be brief.", model=MODEL), "hello")).final_output


@step("streaming")
async def streaming() -> None:
    result = Runner.run_streamed(Agent(name="A", model=MODEL), "hello")
    kinds = [event.data.type async for event in result.stream_events() if event.type == "raw_response_event"]
    assert "response.output_text.delta" in kinds
    assert kinds[-1] == "response.completed"
    assert result.final_output


@step("tools")
async def tools() -> None:
    for streamed in (False, True):
        asked.clear()
        agent = Agent(name="A", model=MODEL, tools=[get_weather])
        if streamed:
            result = Runner.run_streamed(agent, WEATHER)
            assert [event async for event in result.stream_events()]
        else:
            result = await Runner.run(agent, WEATHER)
        assert asked == ["Paris"]
        assert result.final_output


@step("tools: forced")
async def forced() -> None:
    asked.clear()
    settings = ModelSettings(tool_choice="get_weather")
    assert (
        await Runner.run(Agent(name="A", model=MODEL, tools=[get_weather], model_settings=settings), WEATHER)
    ).final_output
    assert asked


@step("handoff")
async def handoff() -> None:
    other = Agent(name="Weather", model=MODEL, tools=[get_weather], handoff_description="knows the weather")
    assert (await Runner.run(Agent(name="A", model=MODEL, handoffs=[other]), "hello")).final_output


@step("structured output")
async def structured() -> None:
    result = await Runner.run(Agent(name="A", model=MODEL, output_type=Person), "hello")
    assert isinstance(result.final_output, Person)


@step("reasoning")
async def reasoning() -> None:
    settings = ModelSettings(reasoning=Reasoning(effort="low", summary="auto"))
    result = await Runner.run(Agent(name="A", model=THINKER, model_settings=settings), "hello")
    assert result.final_output
    assert any(item.type == "reasoning_item" for item in result.new_items)
    again = [*result.to_input_list(), {"role": "user", "content": "hello"}]
    assert (await Runner.run(Agent(name="A", model=THINKER, model_settings=settings), again)).final_output


@step("chat completions")
async def chat() -> None:
    model = OpenAIChatCompletionsModel(model=MODEL, openai_client=AsyncOpenAI())
    asked.clear()
    agent = Agent(name="A", model=model, tools=[get_weather])
    assert (await Runner.run(agent, WEATHER)).final_output
    assert asked == ["Paris"]
    result = Runner.run_streamed(agent, "hello")
    assert [event async for event in result.stream_events()]


run()
