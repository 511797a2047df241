"""Adding an API is adding a folder: whatever is forgotten fails here, with what to do."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

import proxy.apis
from actors.messages import ServerApiName
from proxy.apis.interface import Endpoint
from proxy.apis.table import APIS, ENDPOINTS, SERVERS, dialect_of

HERE = Path(proxy.apis.__file__).parent
FOLDERS = sorted(file.parent.name for file in HERE.glob("*/__init__.py"))
KNOWN_BY_ALL = "openai"
"""The API that the others may import: llama.cpp speaks all of them, with OpenAI's errors."""

endpoints = pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.path)


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_folder_is_in_the_table(folder: str) -> None:
    own = importlib.import_module(f"proxy.apis.{folder}.endpoints").API
    assert own in APIS, f"add the API of proxy/apis/{folder}/endpoints.py to APIS in proxy/apis/table.py"
    assert own.endpoints, f"proxy/apis/{folder} has no endpoint"


@endpoints
def test_a_path_is_one_endpoint_and_has_its_dialect(endpoint: Endpoint) -> None:
    for path in endpoint.paths:
        owners = [one.path for one in ENDPOINTS if path in one.paths]
        assert len(owners) == 1, f"{path} belongs to several endpoints: {owners}"
        assert dialect_of(path) is dialect_of(f"{path}/x") is endpoint.dialect


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/", "openai"),
        ("/nothing", "openai"),
        ("/v1/models", "openai"),
        ("/apiary", "openai"),
        ("/v1/messages_of_mine", "openai"),
        ("/v1/messages/batches/1", "anthropic"),
        ("/v1/responses/resp_1/cancel", "responses"),
        ("/api", "ollama"),
        ("/api/nothing", "ollama"),
        ("/upstream/org/model/v1/messages", "anthropic"),
        ("/upstream/demo/api/chat", "ollama"),
        ("/v1/v1/messages", "anthropic"),
        ("/v1/api/tags", "ollama"),
        ("/upstream/demo", "openai"),
        ("/upstream/demo/nothing", "openai"),
    ],
)
def test_paths_that_are_no_endpoint_have_a_dialect(path: str, name: str) -> None:
    assert dialect_of(path).name == name


@endpoints
def test_each_endpoint_can_be_answered(endpoint: Endpoint) -> None:
    translators = [endpoint.codec, endpoint.embedder, endpoint.counter]
    count = sum(translator is not None for translator in translators)
    assert count <= 1, "give it one of codec, embedder and counter"
    if endpoint.api is None:
        assert count, "give it a codec, an embedder or a counter: with api=None it is always translated"
    elif endpoint.generates:
        assert endpoint.assembler, "servers stream its whole answers too: give it an assembler, or api=None"
    assert (endpoint.stream_end is None) == (endpoint.assembler is None), "a stream needs both"


def test_every_kind_of_server_is_spoken_with() -> None:
    missing = set(get_args(ServerApiName)) - set(SERVERS)
    assert not missing, "each name of actors.messages.ServerApiName needs an API with such a server"
    assert sum(api.server is not None for api in APIS) == len(SERVERS)


@pytest.mark.parametrize("folder", FOLDERS)
def test_an_api_knows_no_other_but_openais(folder: str) -> None:
    foreign = set(FOLDERS) - {folder, KNOWN_BY_ALL}
    for file in (HERE / folder).glob("**/*.py"):
        wrong = foreign.union(["table"]).intersection(imports_of(file))
        assert not wrong, f"{file.name} imports {wrong}: move what both need into a module of proxy/apis"


def test_the_ways_of_an_answer_know_no_api_but_openais() -> None:
    """What is special about an API is a field of its `Endpoint`, or a property of its request."""
    ways = [*(HERE.parent / "answers").glob("*.py"), HERE.parent / "handlers" / "generate.py"]
    for file in ways:
        assert imports_of(file).intersection(FOLDERS) <= {KNOWN_BY_ALL}, file.name


def test_the_shared_modules_know_no_api() -> None:
    for file in HERE.glob("*.py"):
        if file.stem != "table":
            assert not imports_of(file).intersection([*FOLDERS, "table"]), file.name


def imports_of(file: Path) -> set[str]:
    """The modules and folders of proxy.apis that a file imports, or of which it imports something."""

    def names() -> Iterator[str]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)

    return {name.split(".")[2] for name in names() if name.startswith("proxy.apis.")}
