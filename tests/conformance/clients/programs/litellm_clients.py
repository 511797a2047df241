"""LiteLLM, by each of the three APIs."""

import json
import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or it is fetched

import litellm
from pydantic import BaseModel
from steps import EMBEDDER, GATEWAY, MODEL, THINKER, WEATHER, run, step

HELLO = [{"role": "user", "content": "hello"}]
APIS = {
    "openai": {"api_base": f"{GATEWAY}/v1", "api_key": "none"},
    "anthropic": {"api_base": GATEWAY, "api_key": "none"},
    "ollama_chat": {"api_base": GATEWAY},
}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class Person(BaseModel):
    """A structured answer."""

    name: str
    age: int


for name, where in APIS.items():
    given = {"model": f"{name}/{MODEL}", "max_tokens": 200, **where}

    @step(f"{name}: text and streaming")
    def text(given=given) -> None:
        answer = litellm.completion(messages=HELLO, **given)
        assert answer.choices[0].message.content
        assert answer.usage.completion_tokens
        parts = list(litellm.completion(messages=HELLO, stream=True, **given))
        assert "".join(part.choices[0].delta.content or "" for part in parts)

    @step(f"{name}: tools")
    def tools(given=given) -> None:
        messages = [{"role": "user", "content": WEATHER}]
        message = litellm.completion(messages=messages, tools=[TOOL], **given).choices[0].message
        (call,) = message.tool_calls
        assert json.loads(call.function.arguments) == {"city": "Paris"}
        result = {"role": "tool", "tool_call_id": call.id, "content": "21 degrees"}
        again = litellm.completion(messages=[*messages, message.model_dump(), result], tools=[TOOL], **given)
        assert again.choices[0].message.content
        parts = list(litellm.completion(messages=messages, tools=[TOOL], stream=True, **given))
        whole = litellm.stream_chunk_builder(parts)
        assert json.loads(whole.choices[0].message.tool_calls[0].function.arguments) == {"city": "Paris"}

    @step(f"{name}: structured output")
    def structured(given=given) -> None:
        answer = litellm.completion(messages=HELLO, response_format=Person, **given)
        Person.model_validate_json(answer.choices[0].message.content)

    if name == "anthropic":
        continue  # LiteLLM refuses what follows for models that are not Anthropic's own

    @step(f"{name}: reasoning")
    def reasoning(given=given, name=name) -> None:
        more = {"reasoning_effort": "low"} if name == "ollama_chat" else {}
        whole = {**given, **more, "model": f"{name}/{THINKER}", "max_tokens": 2000}
        answer = litellm.completion(messages=HELLO, **whole)
        assert answer.choices[0].message.reasoning_content


@step("openai: responses")
def responses() -> None:
    answer = litellm.responses(model=f"openai/{MODEL}", input="hello", **APIS["openai"])
    assert answer.output[0].content[0].text
    assert list(litellm.responses(model=f"openai/{MODEL}", input="hello", stream=True, **APIS["openai"]))


@step("openai: embeddings")
def embeddings() -> None:
    answer = litellm.embedding(model=f"openai/{EMBEDDER}", input=["a llama", "b"], **APIS["openai"])
    assert len(answer.data) == 2


run()
