"""LangChain with its packages for OpenAI, Anthropic and Ollama."""

from langchain.agents import create_agent
from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import BaseChatModel
from langchain_core.tools import tool
from langchain_ollama import ChatOllama, OllamaEmbeddings
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel
from steps import EMBEDDER, GATEWAY, MODEL, THINKER, WEATHER, run, step

asked: list[str] = []


class Person(BaseModel):
    """A structured answer."""

    name: str
    age: int


@tool
def get_weather(city: str) -> str:
    """Get the weather of a city."""
    asked.append(city)
    return f"21 degrees in {city}"


def openai(model: str = MODEL, **fields: object) -> BaseChatModel:
    return ChatOpenAI(model=model, base_url=f"{GATEWAY}/v1", api_key="none", max_retries=0, **fields)


def responses(model: str = MODEL, **fields: object) -> BaseChatModel:
    return openai(model, use_responses_api=True, **fields)


def anthropic(model: str = MODEL, **fields: object) -> BaseChatModel:
    return ChatAnthropic(model_name=model, base_url=GATEWAY, api_key="none", max_retries=0, **fields)


def ollama(model: str = MODEL, **fields: object) -> BaseChatModel:
    return ChatOllama(model=model, base_url=GATEWAY, **fields)


for made in (openai, responses, anthropic, ollama):
    api = made.__name__

    @step(f"{api}: text and streaming")
    def text(make=made) -> None:
        answer = make().invoke("hello")
        assert answer.text
        assert answer.usage_metadata["output_tokens"] > 0
        parts = list(make().stream("hello"))
        assert "".join(part.text for part in parts)
        # For other addresses than OpenAI's own LangChain does not ask for the usage of a stream.
        assert make is openai or any(part.usage_metadata for part in parts)

    @step(f"{api}: tools")
    def tools(make=made) -> None:
        (call,) = make().bind_tools([get_weather]).invoke(WEATHER).tool_calls
        assert (call["name"], call["args"]) == ("get_weather", {"city": "Paris"})
        whole = None
        for part in make().bind_tools([get_weather]).stream(WEATHER):
            whole = part if whole is None else whole + part
        assert whole.tool_calls[0]["args"] == {"city": "Paris"}

    @step(f"{api}: an agent")
    def agent(make=made) -> None:
        asked.clear()
        state = create_agent(make(), tools=[get_weather]).invoke({"messages": [("user", WEATHER)]})
        assert asked == ["Paris"]
        assert state["messages"][-1].text

    @step(f"{api}: structured output")
    def structured(make=made) -> None:
        assert isinstance(make().with_structured_output(Person).invoke("hello"), Person)

    if made is not ollama:

        @step(f"{api}: structured output by a tool")
        def by_tool(make=made) -> None:
            model = make().with_structured_output(Person, method="function_calling")
            assert isinstance(model.invoke("hello"), Person)


@step("responses: reasoning")
def reasoning() -> None:
    answer = responses(THINKER, reasoning={"effort": "low", "summary": "auto"}).invoke("hello")
    assert any(block["type"] == "reasoning" for block in answer.content_blocks)
    assert answer.text
    again = responses(THINKER).invoke([("user", "hello"), answer, ("user", "hello")])
    assert again.text


@step("anthropic: reasoning")
def thinking() -> None:
    model = anthropic(THINKER, thinking={"type": "enabled", "budget_tokens": 1024}, max_tokens=2000)
    answer = model.invoke("hello")
    assert any(block["type"] == "reasoning" for block in answer.content_blocks)
    assert model.invoke([("user", "hello"), answer, ("user", "hello")]).text


@step("ollama: reasoning")
def ollama_reasoning() -> None:
    answer = ollama(THINKER, reasoning=True).invoke("hello")
    assert answer.additional_kwargs["reasoning_content"]


@step("openai: embeddings")
def embeddings() -> None:
    model = OpenAIEmbeddings(
        model=EMBEDDER, base_url=f"{GATEWAY}/v1", api_key="none", check_embedding_ctx_length=False
    )
    assert len(model.embed_documents(["a llama", "a container"])) == 2


@step("ollama: embeddings")
def ollama_embeddings() -> None:
    assert len(OllamaEmbeddings(model=EMBEDDER, base_url=GATEWAY).embed_documents(["a llama", "b"])) == 2


run()
