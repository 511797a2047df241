"""pydantic-ai with its models for OpenAI's two APIs and Anthropic's."""

from anthropic import AsyncAnthropic
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.messages import ThinkingPart
from pydantic_ai.models import Model
from pydantic_ai.models.anthropic import AnthropicModel, AnthropicModelSettings
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel, OpenAIResponsesModelSettings
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider
from steps import GATEWAY, MODEL, THINKER, WEATHER, run, step

asked: list[str] = []


class Person(BaseModel):
    """A structured answer."""

    name: str
    age: int


def get_weather(city: str) -> str:
    """Get the weather of a city."""
    asked.append(city)
    return f"21 degrees in {city}"


def chat(model: str = MODEL) -> Model:
    return OpenAIChatModel(model, provider=OpenAIProvider(base_url=f"{GATEWAY}/v1", api_key="none"))


def responses(model: str = MODEL) -> Model:
    return OpenAIResponsesModel(model, provider=OpenAIProvider(base_url=f"{GATEWAY}/v1", api_key="none"))


def anthropic(model: str = MODEL) -> Model:
    client = AsyncAnthropic(base_url=GATEWAY, api_key="none")
    return AnthropicModel(model, provider=AnthropicProvider(anthropic_client=client))


for made in (chat, responses, anthropic):
    api = made.__name__

    @step(f"{api}: text and streaming")
    async def text(make=made) -> None:
        assert (await Agent(make()).run("hello")).output
        async with Agent(make(), instructions="Be brief.").run_stream("hello") as result:
            assert [part async for part in result.stream_text(delta=True)]
            assert result.usage.output_tokens if hasattr(result.usage, "output_tokens") else result.usage()

    @step(f"{api}: tools")
    async def tools(make=made) -> None:
        asked.clear()
        agent = Agent(make(), tools=[get_weather])
        assert (await agent.run(WEATHER)).output
        async with agent.run_stream(WEATHER) as result:
            assert await result.get_output()
        assert asked == ["Paris", "Paris"]

    @step(f"{api}: structured output by a tool")
    async def by_tool(make=made) -> None:
        assert isinstance((await Agent(make(), output_type=ToolOutput(Person)).run("hello")).output, Person)
        assert isinstance((await Agent(make(), output_type=Person).run("hello")).output, Person)

    if made is anthropic:
        continue  # pydantic-ai believes that only Anthropic's own models can do what follows

    @step(f"{api}: structured output")
    async def structured(make=made) -> None:
        assert isinstance((await Agent(make(), output_type=NativeOutput(Person)).run("hello")).output, Person)


def _thought(result) -> bool:
    return any(isinstance(part, ThinkingPart) for message in result.all_messages() for part in message.parts)


@step("chat: reasoning")
async def reasoning() -> None:
    result = await Agent(chat(THINKER)).run("hello")
    assert _thought(result)
    assert (await Agent(chat(THINKER)).run("hello", message_history=result.all_messages())).output


@step("responses: reasoning")
async def responses_reasoning() -> None:
    settings = OpenAIResponsesModelSettings(
        openai_reasoning_effort="low", openai_reasoning_summary="detailed"
    )
    result = await Agent(responses(THINKER), model_settings=settings).run("hello")
    assert _thought(result)
    assert (await Agent(responses(THINKER)).run("hello", message_history=result.all_messages())).output


@step("anthropic: reasoning")
async def thinking() -> None:
    settings = AnthropicModelSettings(
        anthropic_thinking={"type": "enabled", "budget_tokens": 1024}, max_tokens=2000
    )
    result = await Agent(anthropic(THINKER), model_settings=settings).run("hello")
    assert _thought(result)
    again = await Agent(anthropic(THINKER), model_settings=settings).run(
        "hello", message_history=result.all_messages()
    )
    assert again.output


run()
