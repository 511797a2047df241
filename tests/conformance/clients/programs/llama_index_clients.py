"""LlamaIndex with its packages for OpenAI-like servers, Anthropic and Ollama."""

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.llms.ollama import Ollama
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel
from steps import EMBEDDER, GATEWAY, MODEL, WEATHER, run, step

HELLO = [ChatMessage(role="user", content="hello")]
asked: list[str] = []


class Person(BaseModel):
    """A structured answer."""

    name: str
    age: int


def get_weather(city: str) -> str:
    """Get the weather of a city."""
    asked.append(city)
    return f"21 degrees in {city}"


def openai_like():
    return OpenAILike(
        model=MODEL,
        api_base=f"{GATEWAY}/v1",
        api_key="none",
        is_chat_model=True,
        is_function_calling_model=True,
        should_use_structured_outputs=True,
    )


def ollama():
    return Ollama(model=MODEL, base_url=GATEWAY, request_timeout=60)


for made in (openai_like, ollama):
    api = made.__name__

    @step(f"{api}: text and streaming")
    def text(make=made) -> None:
        assert make().chat(HELLO).message.content
        assert "".join(part.delta or "" for part in make().stream_chat(HELLO))

    @step(f"{api}: tools")
    async def tools(make=made) -> None:
        asked.clear()
        answer = await FunctionAgent(tools=[get_weather], llm=make()).run(WEATHER)
        assert asked == ["Paris"]
        assert str(answer)

    @step(f"{api}: structured output")
    def structured(make=made) -> None:
        assert isinstance(make().as_structured_llm(Person).chat(HELLO).raw, Person)


@step("openai: embeddings")
def embeddings() -> None:
    model = OpenAIEmbedding(model_name=EMBEDDER, api_base=f"{GATEWAY}/v1", api_key="none")
    assert model.get_text_embedding("a llama")


run()
