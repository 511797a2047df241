"""`/openapi.json` of a gateway: valid, complete, and true of its answers."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from openapi_spec_validator import validate

from tests.attack import schema
from tests.conftest import DEMO
from tests.gateway import CHECKOUT, Gateway, running

FILLED = "x"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, cache: str, real_server: None) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("openapi")
    config = {**schema.config(str(folder / "hub")), "llama_cpp": {"models": {"demo": DEMO}}}
    with running(config, folder, XDG_CACHE_HOME=cache) as shared:
        shared.client.headers.update(schema.HEADERS)
        yield shared


def test_the_document_is_valid(gateway: Gateway) -> None:
    validate(gateway.client.get("/openapi.json").json())


def test_methods_are_those_of_the_routes(gateway: Gateway) -> None:
    for path, operations in gateway.client.get("/openapi.json").json()["paths"].items():
        if "/{path}" in path or path.startswith("/upstream/"):
            continue  # what they take is for an agent or a model's server to say
        names = [one["name"] for one in next(iter(operations.values()))["parameters"] if one["in"] == "path"]
        filled = path.format(**{name: "0" * 16 if name == "digest" else FILLED for name in names})
        allowed = gateway.client.options(filled).headers["allow"].split(", ")
        described = {method.upper() for method in operations}
        assert set(allowed) - {"OPTIONS", "HEAD"} >= described - {"HEAD"}, path


def is_documented(path: str, lines: list[str]) -> bool:
    """Whether a line of the pages has a path, or its beginning and its end, as in "`/a/{id}/b`, `/c`"."""
    above, _, last = path.rpartition("/")
    whole, beginning = (re.sub(r"\\{\w+\\}", r"[^`\\s?]+", re.escape(part)) for part in (path, above))
    return any(
        re.search(f"[` ]{whole}[`? \\[]", line)
        or (re.search(f"[` ]{beginning}[`/]", line) and f"/{last}`" in line)
        for line in lines
    )


def test_every_path_is_documented(gateway: Gateway) -> None:
    lines = [line for page in CHECKOUT.glob("docs/*.md") for line in page.read_text().splitlines()]
    paths = [
        path for path in gateway.client.get("/openapi.json").json()["paths"] if "{digest}/{path}" not in path
    ]
    missing = [
        path for path in paths if not is_documented(path, lines) and not is_documented(f"/v1{path}", lines)
    ]
    assert not missing, "add them to docs/endpoints.md"


def test_each_operation_has_words_and_an_id_of_its_own(gateway: Gateway) -> None:
    paths = gateway.client.get("/openapi.json").json()["paths"]
    operations = [operation for methods in paths.values() for operation in methods.values()]
    assert all(operation["summary"] for operation in operations)
    ids = [operation["operationId"] for operation in operations]
    assert len(set(ids)) == len(ids)


def test_answers_are_as_it_says(gateway: Gateway) -> None:
    gateway.chat()
    faults = list(schema.attack(gateway, examples=4))
    assert not faults, "\n".join(faults)
    assert gateway.client.get("/health").status_code == 200


def test_a_key_is_needed_for_it_if_there_are_keys(gateway: Gateway) -> None:
    assert httpx.get(f"{gateway.url}/openapi.json").status_code == 401


def test_the_base_path_is_its_server(tmp_path: Path) -> None:
    with running({"server": {"base_path": "/llm"}}, tmp_path) as gateway:
        document = gateway.client.get("/openapi.json").json()
    assert document["servers"] == [{"url": "/llm"}]
