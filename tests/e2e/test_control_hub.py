"""The hub by `/admin/hub`: search, what a model would take before it is downloaded, download and deletion."""

from collections.abc import Iterator
from typing import Any

import pytest

from actors.demo.model import write_demo
from tests.e2e.test_control import Watcher
from tests.gateway import Gateway, Json, running, until
from tests.stand_in_hub import StandInHub

REPO = "Org/Demo-GGUF"
MORE = 5_000_000
"""Bytes by which the larger variant is larger."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandInHub]:
    folder = tmp_path_factory.mktemp("hub")
    for name in (REPO, "Org/Other-GGUF", "Foreign/Demo-GGUF"):
        (folder / name).mkdir(parents=True)
    small = folder / REPO / "demo-Q4_K_M.gguf"
    write_demo(small, embedding=False)
    (folder / REPO / "demo-Q8_0.gguf").write_bytes(small.read_bytes() + bytes(MORE))
    (folder / "Org/Other-GGUF/broken-Q4_K_M.gguf").write_bytes(b"GGUF, it says")
    with StandInHub(folder) as hub:
        yield hub


@pytest.fixture(scope="module")
def gateway(site: StandInHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("control")
    hub = {"endpoint": site.url, "cache_dir": str(folder / "cache"), "allow": ["org/*"]}
    with running({"hub": hub}, folder) as gateway:
        yield gateway


def get(gateway: Gateway, path: str, **query: Any) -> Json:
    answer = gateway.client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    return found


def files(gateway: Gateway, **query: Any) -> tuple[dict[str, Json], Json]:
    answer = get(gateway, "/admin/hub/files", repo="org/demo-gguf", **query)
    assert answer["repo"] == REPO
    return {file["variant"]: file for file in answer["files"]}, answer


def test_a_search_finds_what_may_be_named(gateway: Gateway) -> None:
    found = get(gateway, "/admin/hub/search", q="demo")["results"]
    assert [hit["repo"] for hit in found] == [REPO]
    assert found[0]["downloads"] is not None
    found = get(gateway, "/admin/hub/search")["results"]
    assert [hit["repo"] for hit in found] == ["Org/Other-GGUF", REPO], "the most downloaded first"


def test_what_a_model_would_take_before_it_is_downloaded(gateway: Gateway, site: StandInHub) -> None:
    seen, answer = files(gateway)
    assert not site.downloads, "headers are all that was read"
    small, large = seen["Q4_K_M"], seen["Q8_0"]
    assert small["name"] == f"{REPO}:Q4_K_M"
    assert (small["downloaded"], small["certainty"]) == (False, "exact")
    assert small["memory"] > small["size"]
    assert (large["certainty"], large["memory"] - small["memory"]) == ("by size", MORE)
    assert answer["plan"]["model"] == f"{REPO}:Q4_K_M"
    assert answer["plan"]["action"] == "start"
    before = len(site.seen)
    longer, answer = files(gateway, variant="Q4_K_M", ctx=65536, kv="q8_0")
    assert answer["plan"]["context"] == 65536
    assert longer["Q4_K_M"]["memory"] != small["memory"]
    assert len(site.seen) == before + 1, "the header is known already"
    exact, _ = files(gateway, variant="Q8_0")
    assert (exact["Q8_0"]["certainty"], exact["Q4_K_M"]["certainty"]) == ("exact", "by size")


def test_what_cannot_be_predicted_is_listed_all_the_same(gateway: Gateway) -> None:
    answer = get(gateway, "/admin/hub/files", repo="Org/Other-GGUF")
    (file,) = answer["files"]
    assert (file["memory"], answer["plan"]) == (None, None)
    assert "GGUF" in answer["error"]
    _, answer = files(gateway, kv="q9_9")
    assert (answer["plan"], "q9_9" in answer["error"]) == (None, True)


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("files", 400, None),
        ("files?repo=nothing", 400, None),
        ("files?repo=Foreign/Demo-GGUF", 403, "model_forbidden"),
        ("files?repo=org/nothing", 404, "model_not_found"),
        ("files?repo=org/demo-gguf&variant=Q1", 404, "model_not_found"),
        ("files?repo=org/demo-gguf&ctx=0", 400, None),
    ],
)
def test_mistakes(gateway: Gateway, path: str, status: int, code: str | None) -> None:
    answer = gateway.client.get(f"/admin/hub/{path}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text


def test_a_hub_that_does_not_answer(gateway: Gateway, site: StandInHub) -> None:
    site.failures = [(503, {})]
    answer = gateway.client.get("/admin/hub/search", params={"q": "demo"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "hub_error")


def pull(gateway: Gateway, name: str) -> Any:
    return gateway.client.post("/admin/hub/pull", json={"name": name})


def test_a_download_and_its_deletion(gateway: Gateway, site: StandInHub) -> None:
    watcher = Watcher(gateway, lambda kind, _: kind == "model_removed")
    site.pace = (64 * 1024, 0.02)
    answer = pull(gateway, "hf.co/org/demo-gguf:Q4_K_M")
    assert (answer.status_code, answer.json()["name"]) == (202, "org/demo-gguf:Q4_K_M")
    assert pull(gateway, "org/demo-gguf:Q4_K_M").status_code == 202, "it runs already"
    until(lambda: any(told and told[0]["bytes"] for told in watcher.of("downloads")), "progress is told")
    until(lambda: files(gateway)[0]["Q4_K_M"]["downloaded"], "it is downloaded")
    assert len(site.downloads) == 1
    name = f"{REPO}:Q4_K_M"
    until(lambda: name in {model["name"] for model in watcher.of("model")}, "the model is told")
    until(lambda: watcher.of("downloads")[-1] == [], "no download is left")
    models = {model["name"]: model for model in get(gateway, "/admin/models")["models"]}
    assert models[name]["size"] == files(gateway)[0]["Q4_K_M"]["size"]
    answer = gateway.client.delete(f"/admin/models/{name}")
    assert (answer.status_code, answer.json()["freed_bytes"]) == (200, models[name]["size"])
    assert get(gateway, "/admin/models")["models"] == []
    assert gateway.client.delete(f"/admin/models/{name}").status_code == 404
    watcher.close()
    assert watcher.of("model_removed") == [{"name": name}]


def test_a_download_that_fails(gateway: Gateway) -> None:
    watcher = Watcher(gateway, lambda kind, told: kind == "downloads" and any(one["error"] for one in told))
    assert pull(gateway, "org/nothing:Q4_K_M").status_code == 202
    watcher.close()
    assert "no such repository" in watcher.of("downloads")[-1][0]["error"]
    for name, status in (("Foreign/Demo-GGUF:Q8_0", 403), ("nothing", 400)):
        assert pull(gateway, name).status_code == status
