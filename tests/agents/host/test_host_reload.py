"""A reload of agents: those that have changed are replaced, and requests that they have go on."""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import pytest

from actors.runtime import spawn
from agents.api import Agent, AgentConfig, Chat, Context, Filter, Finished, Reply, TextFilter
from agents.errors import AgentError
from agents.events import AnswerStarted, Done, Finish, Text
from agents.host.discovery import BrokenAgentError, Loaded
from agents.testing import ScriptedLLM, chat, hosted, run_request


class WordConfig(AgentConfig, frozen=True, kw_only=True):
    word: str = "old"


class _Word(TextFilter):
    def __init__(self, word: str) -> None:
        self.word = word

    def text(self, piece: str) -> str:
        return f"{piece} {self.word}"


class Speaker(Agent):
    """Adds a word to each piece of an answer."""

    Config = WordConfig
    config: WordConfig
    lives: ClassVar[list[str]] = []

    async def start(self) -> None:
        if self.config.word == "broken":
            raise RuntimeError("no")
        if self.config.word == "hangs":
            self.lives.append("hangs")
            await asyncio.Event().wait()
        self.lives.append(f"+{self.config.word}")

    async def close(self) -> None:
        self.lives.append(f"-{self.config.word}")

    async def before(self, ctx: Context, request: Chat) -> Chat | Reply:
        return request

    def stream(self, ctx: Context) -> Filter | None:
        return _Word(self.config.word)

    async def after(self, ctx: Context, finished: Finished) -> None:
        self.lives.append(f"after {self.config.word}")


class Other(Speaker):
    """Another one."""

    lives: ClassVar[list[str]] = []


def loaded(kind: type[Agent], word: str) -> Loaded:
    return Loaded(kind.__name__.lower(), kind.__module__, kind, WordConfig(word=word))


async def until(lives: list[str], expected: Iterable[str]) -> None:
    async with asyncio.timeout(10):
        while not set(expected) <= set(lives):  # noqa: ASYNC110 (it is seen from outside only)
            await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def _no_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    Speaker.lives.clear()
    Other.lives.clear()
    monkeypatch.setattr("agents.host.supervision.LOOK", 0)


async def test_only_a_changed_agent_is_replaced_and_its_requests_go_on(tmp_path: Path) -> None:
    llm = ScriptedLLM("x")
    config = {"speaker": {"word": "old"}, "other": {"word": "same"}}
    async with hosted(Speaker, Other, llm=llm, folder=tmp_path, config=config) as host:
        run = host.plan(chat("/speaker hello"), request_id="one")
        assert run is not None
        await run.before()
        run.feed(AnswerStarted("1", "demo", 0))
        await host.reconfigure([loaded(Other, "same"), loaded(Speaker, "new")], {}, skip_broken=False)
        assert [agent.name for agent in host.loaded] == ["other", "speaker"]
        texts = [event for event in run.feed(Text("hello")) if isinstance(event, Text)]
        assert [event.text for event in texts] == ["hello old"]
        assert "-old" not in Speaker.lives
        for event in (Finish("stop"), Done()):
            run.feed(event)
        run.finish()
        del run
        outcome = await run_request(host, chat("/speaker hello"), llm)
        assert outcome.answer.text == "x new"
        await until(Speaker.lives, ["after old", "-old", "after new"])
        assert Speaker.lives.index("after old") < Speaker.lives.index("-old")
        assert Other.lives == ["+same"]
        assert host.describe()[1]["counters"]["requests"] == 2


async def test_one_that_cannot_start_changes_nothing(tmp_path: Path) -> None:
    llm = ScriptedLLM("x")
    async with hosted(Speaker, llm=llm, folder=tmp_path) as host:
        with pytest.raises(BrokenAgentError, match=r"'speaker' cannot be started: .*RuntimeError: no"):
            await host.reconfigure([loaded(Other, "new"), loaded(Speaker, "broken")], {}, skip_broken=False)
        assert (await run_request(host, chat("/speaker hello"), llm)).answer.text == "x old"
        assert Other.lives == ["+new", "-new"]
        await host.reconfigure([loaded(Other, "new"), loaded(Speaker, "broken")], {}, skip_broken=True)
        assert [agent.name for agent in host.loaded] == ["other"]
        with pytest.raises(AgentError, match="there is no agent 'speaker'"):
            host.plan(chat(), header="speaker")


async def test_the_agents_of_a_model_change(tmp_path: Path) -> None:
    llm = ScriptedLLM("x")
    async with hosted(Speaker, llm=llm, folder=tmp_path) as host:
        assert host.plan(chat(model="m")) is None
        await host.reconfigure(host.loaded, {"m": ["speaker"]}, skip_broken=False)
        assert (await run_request(host, chat(model="m"), llm)).answer.text == "x old"
        assert Speaker.lives[:1] == ["+old"]
        assert "-old" not in Speaker.lives
        await host.reconfigure([], {}, skip_broken=False)
        assert host.plan(chat(model="m")) is None


async def test_a_stopping_host_does_not_wait_for_replaced_agents(tmp_path: Path) -> None:
    llm = ScriptedLLM("x")
    async with hosted(Speaker, llm=llm, folder=tmp_path) as host:
        run = host.plan(chat("/speaker hello"))
        await host.reconfigure([], {}, skip_broken=False)
        assert run is not None
    assert Speaker.lives == ["+old", "-old"]


async def test_a_reload_that_is_given_up_leaves_no_agent_behind(tmp_path: Path) -> None:
    async with hosted(Speaker, llm=ScriptedLLM("x"), folder=tmp_path) as host:
        agents = [loaded(Other, "new"), loaded(Speaker, "hangs")]
        reload = spawn(host.reconfigure(agents, {}, skip_broken=False), name="reload")
        await until(Speaker.lives, ["hangs"])
        reload.cancel()
        await asyncio.wait([reload])
        assert Other.lives == ["+new", "-new"]
        assert [agent.name for agent in host.loaded] == ["speaker"]
