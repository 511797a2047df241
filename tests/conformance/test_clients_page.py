"""docs/clients.md has what the suite tries, which versions, and every difference that is left."""

import importlib
import json
import re
from pathlib import Path

import pytest

from tests.conformance.clients.__main__ import PROGRAMS
from tests.conformance.known import BESIDES, KNOWN
from tests.conformance.strict import EXTRAS
from tests.conformance.test_node import FEATURES
from tests.gateway import CHECKOUT

HERE = Path(__file__).parent
PAGE = (CHECKOUT / "docs" / "clients.md").read_text()
LISTED = re.sub(r"\s+", " ", PAGE)


def features() -> dict[str, list[str]]:
    """The features that the suite tries, by client as the page names it."""
    found: dict[str, list[str]] = {}
    for file in sorted(HERE.glob("test_*.py")):
        module = importlib.import_module(f"tests.conformance.{file.stem}")
        for function in vars(module).values():
            marks = [mark for mark in getattr(function, "pytestmark", []) if mark.name == "feature"]
            for mark in marks:
                found.setdefault(f"`{module.CLIENT}` (Python)", []).append(mark.args[0])
    node = {f"`{client}` (Node)": names for client, names in FEATURES.items()}
    return {client: list(dict.fromkeys(names)) for client, names in (found | node).items()}


@pytest.mark.parametrize("client", features())
def test_the_features_of_a_library(client: str) -> None:
    (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| {client} |")]
    assert row.split(" | ")[2].removesuffix(" |") == "; ".join(features()[client])


def test_the_differences() -> None:
    listed = LISTED.partition("Where the suite of the tests finds these:")[2].partition("Fields beyond")[0]
    assert re.findall(r"\* (.+?)(?= \* |$)", listed.strip()) == [*dict.fromkeys(KNOWN.values()), *BESIDES]


def test_the_fields_beyond() -> None:
    listed = LISTED.partition("Fields beyond")[2].partition("Features that only")[0]
    assert re.findall(r"\* `(.+?)`: (.+?)(?= \* |$)", listed.strip()) == list(EXTRAS.items())


def test_the_versions() -> None:
    pinned = dict(
        line.split("==")
        for list_of in ("open-webui", "frameworks")
        for line in (HERE / "clients" / "requirements" / f"{list_of}.txt").read_text().splitlines()
    )
    for name, version in re.findall(r"\b([a-z][a-z-]+) (\d+\.\d+\.\d+)", PAGE):
        assert pinned.get(name, version) == version, name
    node = [json.loads((HERE / folder / "package.json").read_text()) for folder in ("node", "clients/agents")]
    for package, version in (pair for listed in node for pair in listed["dependencies"].items()):
        assert package == "zod" or version in PAGE, package


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_every_client_has_a_heading(program: object) -> None:
    headings = {
        re.sub(r"\W", "", heading.lower()) for heading in re.findall(r"^### (.+)$", PAGE, re.MULTILINE)
    }
    name = re.sub(r"_clients|_command|_", "", program.name)  # type: ignore[attr-defined]
    assert any(name in heading or heading in name for heading in headings)
