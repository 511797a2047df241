"""The folders are the architecture: each package's docstring is its map, and tests stand where sources do."""

import ast
import re
from pathlib import Path

import pytest

from tests.gateway import CHECKOUT

PACKAGES = sorted(
    file.parent.relative_to(CHECKOUT)
    for top in ("actors", "agents", "proxy")
    for file in (CHECKOUT / top).rglob("__init__.py")
)
ELSEWHERE = {
    "tests/actors/test_fake_nvml.py",  # of tests/fake_nvml
    "tests/agents/test_isolation.py",
    "tests/agents/test_agents_page.py",
}
"""Tests of no one module."""


def contents(package: Path) -> list[str]:
    """The modules and packages in a package."""
    return modules(package) + [file.parent.name for file in (CHECKOUT / package).glob("*/__init__.py")]


def modules(package: Path) -> list[str]:
    """The files in a package."""
    return [file.stem for file in (CHECKOUT / package).glob("*.py") if file.stem != "__init__"]


@pytest.mark.parametrize("package", PACKAGES, ids=str)
def test_the_map_names_everything(package: Path) -> None:
    text = (CHECKOUT / package / "__init__.py").read_text()
    told = set(re.findall(r"`([\w.]+?)(?:\.[A-Z]\w*)?(?:\.\w+)?`", text))
    missing = [name for name in contents(package) if name not in told and len(contents(package)) > 1]
    assert not missing, f"add them to the map in the docstring of {package}/__init__.py"


@pytest.mark.parametrize("package", PACKAGES, ids=str)
def test_a_room_can_be_overlooked(package: Path) -> None:
    assert len(modules(package)) <= 12


def test_no_function_of_the_door_takes_more_than_five_things() -> None:
    """What is passed around together is a value of its own, with a name."""
    wide = []
    for file in CHECKOUT.glob("proxy/**/*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                taken = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                if len([arg for arg in taken if arg.arg not in ("self", "cls")]) > 5:
                    wide.append(f"{file.relative_to(CHECKOUT)}: {node.name}")
    assert not wide


def test_the_tests_mirror_the_sources() -> None:
    astray = []
    for file in CHECKOUT.glob("tests/*/**/test_*.py"):
        place = file.relative_to(CHECKOUT)
        if place.parts[1] not in ("actors", "agents", "proxy") or str(place) in ELSEWHERE:
            continue
        package = Path(*place.parts[1:-1])
        name = file.stem.removeprefix("test_")
        known = [*contents(package), package.name] if package in PACKAGES else []
        if not any(name == module or name.startswith(f"{module}_") for module in known):
            astray.append(str(place))
    assert not astray
