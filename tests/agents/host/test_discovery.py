"""Where agents come from, and what is said about broken ones."""

import asyncio
import importlib
import importlib.metadata
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from actors.config.file import parse_config
from actors.config.schema import Config
from actors.errors import ConfigError
from actors.folders import data_folder
from agents.api import Agent
from agents.host.command_line import list_agents
from agents.host.discovery import load_agents, sources
from agents.host.host import AgentHost
from agents.host.settings import Enabled, default_agents, enabled_agents
from agents.testing import ScriptedLLM, chat, run_agent
from tests.gateway import CHECKOUT

GOOD = """
from agents.api import Agent, AgentConfig, Chat

class GoodConfig(AgentConfig, frozen=True, kw_only=True):
    size: int = 1

class Good(Agent):
    description = "Is good"
    Config = GoodConfig
"""


def config(**sections: Any) -> Config:
    return parse_config(sections, folder=Path("/folder"))


def write(folder: Path, name: str, code: str) -> Path:
    (folder / name).mkdir(parents=True, exist_ok=True)
    path = folder / name / "agent.py"
    path.write_text(code)
    return path


@pytest.mark.parametrize(
    ("agents", "expected"),
    [
        ([], []),
        (["rag", "guard"], [Enabled("rag", {}), Enabled("guard", {})]),
        (["rag", {"guard": {"deny": ["x"]}}], [Enabled("rag", {}), Enabled("guard", {"deny": ["x"]})]),
        ({"rag": None, "guard": {"deny": ["x"]}}, [Enabled("rag", {}), Enabled("guard", {"deny": ["x"]})]),
        (["gpu"], [Enabled("vram", {})]),
    ],
)
def test_the_section_in_all_its_forms(agents: Any, expected: list[Enabled]) -> None:
    assert enabled_agents(config(agents=agents)) == expected


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"agents": ["gpu", "vram"]}, "agents.vram: is named twice"),
        ({"agents": ["Bad Name"]}, "agents.Bad Name: cannot be an agent's name"),
        ({"agents": [{"rag": 5}]}, "agents.rag: expected a mapping of options, got 5"),
        (
            {"llama_cpp": {"models": {"m": {"path": "x", "agents": ["rag"]}}}},
            "llama_cpp.models.m.agents: agent 'rag' is not enabled",
        ),
        ({"agents": ["nobody"]}, "agents.nobody: there is no such agent; there are cache, guard, parallel"),
        (
            {"agents": [{"guard": {"dney": []}}]},
            "agents.guard.dney: unknown key; did you mean 'deny'?",
        ),
        (
            {"agents": [{"guard": {"longest": 0}}]},
            "agents.guard.longest: expected a whole number from 1 to 10000, got 0",
        ),
        ({"agents": [{"guard": {"deny": ["("]}}]}, "agents.guard: '(' is no regular expression"),
        (
            {"agents": [{"cache": {"on_error": "x"}}]},
            "agents.cache.on_error: expected one of fail, skip",
        ),
        (
            {"agents": ["cache"], "agent_folders": ["nowhere"]},
            "agent_folders: /folder/nowhere has no agent.py",
        ),
    ],
)
def test_settings_that_make_no_sense(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_agents(config(**sections))
    assert message in str(caught.value)


def test_where_they_keep_what_they_have(monkeypatch: pytest.MonkeyPatch) -> None:
    assert data_folder(config(agent_data="data").agent_data) == Path("/folder/data")
    monkeypatch.setenv("XDG_DATA_HOME", "/home/me/data")
    assert data_folder(config().agent_data) == Path("/home/me/data/llama-smart-proxy/agents")
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert data_folder(config().agent_data) == Path("/home/me/.local/share/llama-smart-proxy/agents")


def test_agents_of_a_model_go_by_all_its_names() -> None:
    models = {"m": {"path": "x", "aliases": ["n"], "agents": ["gpu"]}, "o": {"path": "x"}}
    made = config(agents=["gpu"], llama_cpp={"models": models})
    enabled_agents(made)
    assert default_agents(made) == {"m": ["gpu"], "n": ["gpu"]}


def test_folders(tmp_path: Path) -> None:
    write(tmp_path / "many", "good", GOOD)
    write(tmp_path / "many", "other", GOOD)
    write(tmp_path, "alone", GOOD)
    found = sources([str(tmp_path / "many"), str(tmp_path / "alone")])
    assert {"good", "other", "alone", "guard"} <= set(found)
    made = config(
        agents=[{"good": {"size": 3}}, "alone"],
        agent_folders=[str(tmp_path / "many"), str(tmp_path / "alone")],
    )
    loaded, _ = load_agents(made)
    assert [(one.name, one.kind.description) for one in loaded] == [("good", "Is good"), ("alone", "Is good")]
    assert getattr(loaded[0].config, "size") == 3  # noqa: B009  # its type is known to the plugin only


def test_a_name_that_means_another_agent_already(tmp_path: Path) -> None:
    file = write(tmp_path, "gpu", GOOD)
    with pytest.raises(ConfigError, match=f"agent_folders: {file}: 'gpu' is another name of 'vram'"):
        load_agents(config(agents=["gpu"], agent_folders=[str(tmp_path)]))


def test_files_beside_it_can_be_imported(tmp_path: Path) -> None:
    write(
        tmp_path,
        "parts",
        "from .words import TEXT\nfrom agents.api import Agent\nclass P(Agent):\n    description = TEXT\n",
    )
    (tmp_path / "parts" / "words.py").write_text("TEXT = 'from beside'\n")
    loaded, _ = load_agents(config(agents=["parts"], agent_folders=[str(tmp_path)]))
    assert loaded[0].kind.description == "from beside"


def test_two_of_a_name(tmp_path: Path) -> None:
    write(tmp_path, "guard", GOOD)
    with pytest.raises(ConfigError, match=r"two agents are called 'guard': .*agents/guard/agent.py and "):
        load_agents(config(agents=["guard"], agent_folders=[str(tmp_path)]))


BROKEN = [
    ("def f(:\n", "agent.py: line 1: invalid syntax"),
    (
        "import nothing_of_the_kind\n",
        "agent.py: line 1: ModuleNotFoundError: No module named 'nothing_of_the_kind'",
    ),
    ("x = 1\nx / 0\n", "agent.py: line 2: ZeroDivisionError: division by zero"),
    ("raise SystemExit(3)\n", "agent.py: line 1: SystemExit: 3"),
    ("x = 1\n", "expected one subclass of agents.api.Agent in it, found 0"),
    (GOOD + "class Two(Agent):\n    pass\n", "found 2"),
    (
        GOOD.replace("AgentConfig, frozen=True, kw_only=True", ""),
        "Config must be a subclass of agents.api.AgentConfig",
    ),
    (GOOD.replace("size: int = 1", "size: complex = 1j"), "Config has a type that no configuration can have"),
    (GOOD.replace("size: int = 1", "size: 'Lost' = 1"), "Config has a type that no configuration can have"),
    (GOOD + "    def before(self, ctx, request):\n        return request\n", "before must be `async def`"),
    (GOOD + "    async def stream(self, ctx):\n        return None\n", "stream must be a plain `def`"),
]


@pytest.mark.parametrize(("code", "reason"), BROKEN)
def test_a_broken_agent_is_named_with_its_file_and_the_reason(tmp_path: Path, code: str, reason: str) -> None:
    path = write(tmp_path, "broken", code)
    with pytest.raises(ConfigError) as caught:
        load_agents(config(agents=["broken"], agent_folders=[str(tmp_path)]))
    assert f"agent 'broken' cannot be used: {path}: " in str(caught.value)
    assert reason in str(caught.value)
    assert "set skip_broken_agents" in str(caught.value)


def test_the_others_can_go_without_it(tmp_path: Path) -> None:
    write(tmp_path, "broken", "x = 1\n")
    write(tmp_path, "good", GOOD)
    made = config(agents=["broken", "good"], agent_folders=[str(tmp_path)], skip_broken_agents=True)
    loaded, broken = load_agents(made)
    assert [one.name for one in loaded] == ["good"]
    assert "agent 'broken' cannot be used" in str(broken[0])


def test_what_is_not_enabled_is_not_imported(tmp_path: Path) -> None:
    write(tmp_path, "bomb", "raise SystemExit\n")
    write(tmp_path, "good", GOOD)
    loaded, _ = load_agents(config(agents=["good"], agent_folders=[str(tmp_path)]))
    assert len(loaded) == 1


STARTS_BADLY = """
from agents.api import Agent

class Bad(Agent):
    async def start(self):
        raise OSError("no such folder: /data")
"""


@pytest.mark.parametrize("skip", [False, True])
async def test_an_agent_that_does_not_start(tmp_path: Path, skip: bool) -> None:
    path = write(tmp_path, "bad", STARTS_BADLY)
    write(tmp_path, "good", GOOD)
    made = config(agents=["good", "bad"], agent_folders=[str(tmp_path)], skip_broken_agents=skip)
    loaded, _ = await asyncio.to_thread(load_agents, made)
    async with aiohttp.ClientSession() as http:
        host = AgentHost(loaded, llm=ScriptedLLM(), http=http, folder=tmp_path / "data", skip_broken=skip)
        if not skip:
            with pytest.raises(ConfigError) as caught:
                await host.start()
            assert f"agent 'bad' cannot be started: {path}: OSError: no such folder: /data" in str(
                caught.value
            )
            return
        await host.start()
        assert [description["name"] for description in host.describe()] == ["good"]
        assert not host.may_apply(b"/bad x", None, "m")
        await host.stop()


def test_entry_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real installed package, as far as Python is concerned."""
    (tmp_path / "their_agent.py").write_text(GOOD)
    folder = tmp_path / "theirs-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(
        "[llama_smart_proxy.agents]\ntheirs = their_agent:Good\nlost = their_agent:Lost\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    importlib.invalidate_caches()
    loaded, _ = load_agents(config(agents=["theirs"]))
    assert (loaded[0].name, loaded[0].file) == ("theirs", "their_agent:Good (of the package theirs)")
    with pytest.raises(ConfigError, match=r"lost.*their_agent:Lost .*AttributeError"):
        load_agents(config(agents=["lost"]))


def test_the_list_of_agents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "broken", "x = 1\n")
    write(tmp_path, "good", GOOD)
    assert list_agents(config(agents=[{"good": {"size": 7}}], agent_folders=[str(tmp_path)])) == 1
    printed = capsys.readouterr().out
    assert f"good (enabled): Is good\n  {tmp_path}/good/agent.py\n" in printed
    assert "  size: 7 " in printed
    assert "guard (not enabled): Refuses" in printed
    assert "deny: ()" in printed
    assert "# patterns that are replaced" in printed
    assert "broken (not enabled, broken)\n  agent 'broken' cannot be used" in printed
    assert list_agents(config()) == 0
    assert list_agents(config(agents=["nobody"])) == 2
    assert "there is no agent 'nobody'" in capsys.readouterr().err


@pytest.fixture
def example() -> type[Agent]:
    """The example of docs/agents.md, loaded as a gateway loads it."""
    loaded, _ = load_agents(config(agents=["signature"], agent_folders=[str(CHECKOUT / "docs" / "examples")]))
    return loaded[0].kind


@pytest.mark.parametrize(("argument", "name"), [("", "your model"), ("Alice", "Alice")])
async def test_the_example(tmp_path: Path, example: type[Agent], argument: str, name: str) -> None:
    llm = ScriptedLLM("Nice to meet you")
    await run_agent(example, chat("hi"), llm=llm, folder=tmp_path)
    outcome = await run_agent(example, chat("hi"), llm=llm, folder=tmp_path, argument=argument)
    assert outcome.answer.text == f"Nice to meet you\n\n-- {name}"
    assert [message.role for message in llm.requests[0].messages] == ["system", "user"]
    assert (tmp_path / "signature" / "count").read_text() == "2"
