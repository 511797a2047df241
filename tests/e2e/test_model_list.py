"""What `/v1/models` tells of a model before it is loaded, and of the loaded one."""

from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.conftest import DEMO, EMBED, Start
from tests.gateway import running
from tests.ollama_daemons import stand_in_daemon


def entries(client: httpx.Client, query: str = "") -> dict[str, dict[str, Any]]:
    return {entry["id"]: entry for entry in client.get(f"/v1/models{query}").json()["data"]}


def test_the_facts_before_and_after_the_load(start: Start, real_server: None) -> None:
    gateway = start({"demo": {**DEMO, "ctx_size": 2048}, "embed": EMBED})
    before = entries(gateway.client)
    demo, embed = before["demo"], before["embed"]
    assert demo["status"] == {"value": "unloaded"}
    assert demo["context_length"] == demo["max_model_len"] == 2048
    assert demo["capabilities"][0] == "completion"
    assert demo["architecture"] == {"input_modalities": ["text"], "output_modalities": ["text"]}
    assert demo["meta"].keys() == {"n_ctx_train", "n_params", "n_embd", "size"}
    assert embed["capabilities"] == ["embedding"]
    assert embed["architecture"]["output_modalities"] == ["embeddings"]
    assert gateway.chat().status_code == 200
    after = entries(gateway.client)["demo"]
    assert after["status"] == {"value": "loaded"}
    placement = gateway.model("demo")["placement"]
    assert after["context_length"] == placement["slot_context"] == demo["context_length"]
    headers = {"anthropic-version": "2023-06-01"}
    claude = gateway.client.get("/v1/models/demo", headers=headers).json()
    assert claude["max_input_tokens"] == 2048
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none") as client:
        (listed,) = [one for one in client.models.list() if one.id == "demo"]
    assert (listed.model_extra or {})["context_length"] == 2048


def test_aliases_are_listed_as_models_when_asked_for(start: Start) -> None:
    models = {"demo": {**DEMO, "aliases": ["a", "b/c"]}}
    gateway = start(models)
    assert list(entries(gateway.client)) == ["demo"]
    listed = entries(gateway.client, "?aliases=1")
    assert {name: entry.get("parent") for name, entry in listed.items()} == {
        "demo": None,
        "a": "demo",
        "b/c": "demo",
    }
    assert listed["a"]["context_length"] == listed["demo"]["context_length"]
    always = start(models, server={"list_aliases": True})
    assert list(entries(always.client)) == ["demo", "a", "b/c"]


@pytest.mark.parametrize("settings", [{}, {"ctx_size": 4096}])
def test_ollamas_models(tmp_path: Path, settings: dict[str, Any]) -> None:
    with stand_in_daemon() as url:
        config = {"ollama": {"host": url, "models": {"chat": {"model": "tiny", **settings}}}}
        with running(config, tmp_path) as gateway:
            entry = entries(gateway.client)["chat"]
            assert entry["owned_by"] == "ollama"
            assert entry.get("context_length") == settings.get("ctx_size")
            assert entry["capabilities"][0] == "completion"
            assert entry["meta"]["size"] > 0
