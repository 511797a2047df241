"""Agents through the front door, on real model servers."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anthropic
import ollama
import openai
import pytest

from tests.conftest import DEMO, Start
from tests.gateway import HELLO, Gateway, until
from tests.ollama_daemons import stand_in_daemon

ONE_SLOT: Any = {**DEMO, "parallel": 1, "ctx_size": 4096}
Json = dict[str, Any]

PLUGIN = """
import asyncio
from agents.api import Agent, Reply, Text, TextFilter, operation

class _Shout(TextFilter):
    def text(self, piece):
        return piece.upper()

class Shout(Agent):
    description = "answers in capitals"

    async def before(self, ctx, request):
        if ctx.argument == "crash":
            raise RuntimeError("no voice")
        if ctx.argument == "hang":
            await asyncio.Event().wait()
        return request

    def stream(self, ctx):
        return _Shout()

    @operation("GET", "odd")
    async def odd(self, call):
        return {"things": [object()]}

    async def after(self, ctx, finished):
        while (ctx.folder / "wait").exists():
            await asyncio.sleep(0.01)
        (ctx.folder / "heard").write_text(f"{finished.failure}|{finished.answer.text}")
"""


@pytest.fixture
def begin(start: Start, tmp_path: Path) -> Callable[..., Gateway]:
    """Starts a gateway with agents, whose data is in `tmp_path`."""
    folder = tmp_path / "mine" / "shout"
    folder.mkdir(parents=True)
    (folder / "agent.py").write_text(PLUGIN)

    def begin(agents: Any, models: Any = None, **sections: Any) -> Gateway:
        return start(
            models or {"demo": ONE_SLOT},
            agents=agents,
            agent_folders=[str(folder.parent)],
            agent_data=str(tmp_path / "data"),
            **sections,
        )

    return begin


def say(text: str) -> list[Json]:
    return [{"role": "user", "content": text}]


def text_of(answer: Any) -> str:
    return str(answer.json()["choices"][0]["message"]["content"])


def streamed(gateway: Gateway, **fields: Any) -> list[Json]:
    """The events of a streamed chat."""
    lines = gateway.chat(stream=True, **fields).text.split("\n\n")
    events = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert events.pop() == "[DONE]"
    return [json.loads(event) for event in events]


def told_by(events: list[Json]) -> str:
    """The text of a stream."""
    return "".join(event["choices"][0]["delta"].get("content") or "" for event in events if event["choices"])


def test_called_in_every_way_and_told(begin: Callable[..., Gateway]) -> None:
    gateway = begin(["shout", "vram"])
    by_command = gateway.chat(messages=say("/shout /vram hello"))
    assert text_of(by_command).startswith("HELLO! I AM THE DEMO")
    assert by_command.json()["vram"]["model"] == "demo"
    told = by_command.headers["X-Agents"].split(", ")
    assert [part.partition(";")[0] for part in told] == ["shout", "vram"]
    by_field = gateway.chat(agents=["shout"])
    assert text_of(by_field).startswith("HELLO!")
    body = {"model": "demo", "messages": HELLO, "max_tokens": 8, "temperature": 0}
    by_header = gateway.client.post("/v1/chat/completions", json=body, headers={"X-Agents": "shout"})
    assert text_of(by_header).startswith("HELLO!")
    assert text_of(gateway.chat()).startswith("Hello!")
    line = gateway.wait_for("request", request_id=by_command.headers["X-Request-Id"])
    assert [agent["name"] for agent in line["agents"]] == ["shout", "vram"]


def test_unknown_commands_stay_and_unknown_names_are_refused(begin: Callable[..., Gateway]) -> None:
    gateway = begin(["shout"])
    plain = gateway.chat(messages=say("/etc/hosts hello"))
    assert plain.status_code == 200
    assert "X-Agents" not in plain.headers
    refused = gateway.chat(agents=["shuot"])
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "agent_not_found"


def test_default_of_a_model(begin: Callable[..., Gateway]) -> None:
    gateway = begin(["shout"], {"demo": {**ONE_SLOT, "agents": ["shout"]}})
    assert text_of(gateway.chat()).startswith("HELLO!")
    assert text_of(gateway.chat("org/demo:latest")).startswith("HELLO!")


@pytest.mark.parametrize("backend", ["llama.cpp", "Ollama"])
def test_on_every_dialect_and_backend(begin: Callable[..., Gateway], backend: str) -> None:
    with stand_in_daemon("--model", "tiny") as url:
        gateway = begin(["shout"], ollama={"host": url})
        model = "demo" if backend == "llama.cpp" else "tiny"
        with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="x", max_retries=0) as gpt:
            said: Any = say("/shout hello")
            chunks = gpt.chat.completions.create(model=model, messages=said, stream=True, max_tokens=9)
            told = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
            assert told
            assert told == told.upper()
        with anthropic.Anthropic(base_url=gateway.url, api_key="x", max_retries=0) as claude:
            with claude.messages.stream(model=model, max_tokens=9, messages=said) as stream:
                message: Any = stream.get_final_message()
            assert message.content[0].text == message.content[0].text.upper()
            whole: Any = claude.messages.create(model=model, max_tokens=9, messages=said)
            assert whole.content[0].text == whole.content[0].text.upper()
        with ollama.Client(host=gateway.url) as client:
            parts = list(client.chat(model, said, stream=True, options={"num_predict": 9}))
            told = "".join(part.message.content or "" for part in parts)
            assert told
            assert told == told.upper()
            assert parts[-1].done


def test_parallel_on_one_slot_ends_and_counts_everything(begin: Callable[..., Gateway]) -> None:
    gateway = begin([{"parallel": {"n": 3}}, "shout"])
    for mode in ("best", "vote", "merge", "all"):
        answer = gateway.chat(messages=say(f"/parallel:{mode} /shout hello"))
        assert answer.status_code == 200, answer.text
        assert text_of(answer) == text_of(answer).upper()
        told = answer.json()
        assert told["parallel"]["answers"] in ((2, 3) if mode == "vote" else (3,))
        assert told["usage"]["completion_tokens"] >= 2 * 8
        events = streamed(gateway, messages=say(f"/parallel:{mode} hello"))
        assert told_by(events)
    assert gateway.model("demo")["busy"] == 0


def test_parallel_over_two_models_swaps_once_each(begin: Callable[..., Gateway]) -> None:
    models = {"demo": ONE_SLOT, "other": {**ONE_SLOT, "aliases": []}}
    parallel = {"models": ["demo", "other"], "mode": "all"}
    gateway = begin([{"parallel": parallel}], models, server_pool={"size": 1})
    assert gateway.chat().status_code == 200
    answer = gateway.chat(messages=say("/parallel hello"))
    assert answer.status_code == 200, answer.text
    starts = [line["model"] for line in gateway.log if line["event"] == "model starts"]
    assert starts == ["demo", "other"]


def test_a_client_that_leaves_cancels_the_whole_tree(begin: Callable[..., Gateway]) -> None:
    gateway = begin([{"parallel": {"n": 3}}], server={"keepalive_interval": 0.1})
    body = {"model": "demo", "messages": say("/parallel forever"), "stream": True, "temperature": 0}
    with gateway.client.stream("POST", "/v1/chat/completions", json=body):
        until(lambda: gateway.model("demo")["busy"], "a call is under way")
    until(lambda: not gateway.model("demo")["busy"], "the slot is free again", 5)
    until(lambda: not gateway.model("demo")["waiting"], "nobody waits")


def test_after_runs_though_the_client_closes_at_done_and_delays_nobody(
    begin: Callable[..., Gateway], tmp_path: Path
) -> None:
    gateway = begin(["shout"])
    folder = tmp_path / "data" / "shout"
    heard, wait = folder / "heard", folder / "wait"
    body = {"model": "demo", "messages": say("/shout hello"), "stream": True, "max_tokens": 8}
    gateway.chat()
    folder.mkdir(parents=True, exist_ok=True)
    wait.touch()
    with gateway.client.stream("POST", "/v1/chat/completions", json=body) as answer:
        for line in answer.iter_lines():
            if line == "data: [DONE]":
                break
    assert not heard.exists()
    wait.unlink()
    until(heard.exists, "after has run")
    until(lambda: heard.read_text().startswith("None|HELLO!"), "with the whole answer")


def test_what_a_plugin_may_do_wrong(begin: Callable[..., Gateway]) -> None:
    gateway = begin([{"shout": {"timeout": 0.3}}])
    gateway.may_crash = True
    skipped = gateway.chat(messages=say("/shout:crash hello"))
    assert text_of(skipped).startswith("Hello!")
    assert "outcome=skipped" in skipped.headers["X-Agents"]
    slow = gateway.chat(messages=say("/shout:hang hello"))
    assert text_of(slow).startswith("Hello!")
    (told,) = gateway.client.get("/v1/agents").json()["data"]
    assert (told["name"], told["description"]) == ("shout", "answers in capitals")
    assert told["counters"]["timeouts"] == 1
    assert told["counters"]["crashes"] == 1
    odd = gateway.client.get("/v1/agents/shout/odd")
    assert (odd.status_code, odd.json()["error"]["code"]) == (500, "agent_failed")
    assert "its answer to 'odd' is no JSON" in odd.json()["error"]["message"]


def test_an_agent_that_must_not_fail(begin: Callable[..., Gateway]) -> None:
    gateway = begin([{"shout": {"timeout": 0.3, "on_error": "fail"}}])
    gateway.may_crash = True
    for stream in (False, True):
        failed = gateway.chat(messages=say("/shout:crash hello"), stream=stream)
        assert failed.status_code == 500
        assert failed.json()["error"]["code"] == "agent_failed"
        assert "shout" in failed.json()["error"]["message"]
        assert gateway.chat(messages=say("/shout:hang hello"), stream=stream).status_code == 504


def test_guard_denies_and_redacts_in_any_dialect(begin: Callable[..., Gateway]) -> None:
    guard = {"always": True, "deny": [r"\bsecret\b"], "redact": ["demo model"], "longest": 20}
    gateway = begin([{"guard": guard}])
    assert "[redacted]" in text_of(gateway.chat(max_tokens=20))
    events = streamed(gateway, max_tokens=20)
    told = told_by(events)
    assert "[redacted]" in told
    assert "demo model" not in told
    denied = gateway.chat(messages=say("the secret"))
    assert denied.status_code == 400
    assert denied.json()["error"]["code"] == "content_filter"
    body = {"model": "demo", "messages": say("the secret"), "max_tokens": 5}
    assert gateway.client.post("/v1/messages", json=body).json()["type"] == "error"
    assert isinstance(gateway.client.post("/api/chat", json=body).json()["error"], str)


def test_an_answer_that_the_guard_cuts_off_leaves_the_model_at_once(begin: Callable[..., Gateway]) -> None:
    gateway = begin([{"guard": {"always": True, "deny": ["under the trees"], "where": "out"}}])
    answer = gateway.chat(messages=say("forever"), max_tokens=None, stream=True)
    assert "content_filter" in answer.text
    until(lambda: not gateway.model("demo")["busy"], "the slot is free")


def test_cache(begin: Callable[..., Gateway]) -> None:
    gateway = begin([{"cache": {"always": True}}])
    first = gateway.chat(max_tokens=None)
    until(lambda: "cache" in gateway.chat(max_tokens=None).json(), "it is kept")
    again = gateway.chat(max_tokens=None)
    assert text_of(again) == text_of(first)
    assert "outcome=replied" in again.headers["X-Agents"]
    events = streamed(gateway, max_tokens=None)
    assert told_by(events) == text_of(first)


def test_a_broken_plugin_stops_the_start_unless_it_may_be_skipped(
    begin: Callable[..., Gateway], tmp_path: Path
) -> None:
    path = tmp_path / "mine" / "broken" / "agent.py"
    path.parent.mkdir()
    path.write_text("import no_such_module\n")
    with pytest.raises(AssertionError, match=r"broken.*agent\.py.*no_such_module"):
        begin(["broken", "shout"])
    gateway = begin(["broken", "shout"], skip_broken_agents=True)
    assert text_of(gateway.chat(messages=say("/shout hello"))).startswith("HELLO!")
    gateway.wait_for("agent left out")


def test_a_guarded_model_has_no_other_way_in(begin: Callable[..., Gateway]) -> None:
    guarded = {**ONE_SLOT, "aliases": ["other"], "agents": ["guard"]}
    gateway = begin([{"guard": {"deny": ["docker"]}}], {"guarded": guarded, "free": ONE_SLOT})
    for name in ("guarded", "guarded:latest", "other", "hf.co/guarded"):
        refused = gateway.chat(name, messages=say("tell docker"))
        assert refused.status_code == 400, name
        assert refused.json()["error"]["code"] == "content_filter"
    refused = gateway.client.post("/v1/responses", json={"model": "guarded", "input": "tell docker"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "content_filter")
    for path, body in (
        ("/v1/completions", {"prompt": "tell docker"}),
        ("/completion", {"prompt": "tell docker"}),
        ("/api/generate", {"prompt": "tell docker", "raw": True}),
        ("/upstream/guarded/v1/chat/completions", {"messages": say("tell docker")}),
    ):
        answer = gateway.client.post(path, json={"model": "guarded", "max_tokens": 2, **body})
        assert answer.status_code == 403, path
        assert gateway.client.post(
            path.replace("guarded", "free"), json={"model": "free", "max_tokens": 2, "stream": False, **body}
        ).is_success, path


def test_agents_on_responses(begin: Callable[..., Gateway]) -> None:
    gateway = begin(["shout", "vram"])
    for fields in ({"input": "/shout /vram hello"}, {"input": "hello", "agents": ["shout", "vram"]}):
        body = {"model": "demo", "max_output_tokens": 8, "temperature": 0, **fields}
        whole = gateway.client.post("/v1/responses", json=body)
        assert whole.json()["output"][0]["content"][0]["text"].startswith("HELLO! I AM")
        assert whole.json()["vram"]["model"] == "demo"
        assert whole.headers["X-Agents"].startswith("shout;")
        events = gateway.client.post("/v1/responses", json={**body, "stream": True}).text.split("\n\n")[:-1]
        last = json.loads(events[-1].partition("data: ")[2])
        assert last["response"]["output"][0]["content"][0]["text"].startswith("HELLO! I AM")
        assert last["response"]["vram"]["model"] == "demo"


def test_what_only_looks_like_a_call_changes_nothing(begin: Callable[..., Gateway]) -> None:
    gateway = begin(["shout"])
    for text in ("agents", "/shouting", "a /shout"):
        odd = gateway.chat(messages=say(text), reasoning="x", max_tokens=2)
        assert odd.status_code == 200, odd.text
        assert "X-Agents" not in odd.headers
    assert gateway.chat(messages=say("/shout x"), logprobs=1).status_code == 400


def test_a_model_that_cannot_be_had_is_no_crash_of_the_agent(begin: Callable[..., Gateway]) -> None:
    parallel = {"mode": "vote", "models": ["demo", "llama3:8b"]}
    gateway = begin([{"parallel": parallel}], ollama={"host": "127.0.0.1:9"})
    gateway.wait_for("Ollama daemon is away")
    for _ in range(4):
        assert gateway.chat(messages=say("/parallel hello")).status_code == 200
    (told,) = gateway.client.get("/v1/agents").json()["data"]
    assert told["counters"]["crashes"] == 0


def test_work_of_an_agent_s_own_holds_up_no_shutdown_and_goes_on_afterwards(
    begin: Callable[..., Gateway], tmp_path: Path
) -> None:
    papers, record = tmp_path / "papers", tmp_path / "record"
    papers.mkdir()
    (papers / "a.md").write_text("llamas")
    command = [sys.executable, "-m", "tests.stand_in_recorder", "--record", str(record)]
    rag = {"folders": {"papers": str(papers)}, "embed_model": "embed"}
    server = {"drain_timeout": 60}
    hangs = {"embed": {"path": "builtin:demo", "command": [*command, "--hang", "embed"]}}
    gateway = begin([{"rag": rag}], hangs, server=server)
    until(lambda: record.exists() and "llamas" in record.read_text(), "vectors are asked for")
    begun = time.monotonic()
    assert gateway.stop(timeout=40) == 0
    assert time.monotonic() - begun < 30
    gateway = begin([{"rag": rag}], {"embed": {"path": "builtin:demo", "command": command}}, server=server)

    def vectors() -> int:
        listed = gateway.client.get("/v1/agents/rag/collections").json()["collections"]
        return int(sum(one["vectors"] for one in listed))

    until(vectors, "the vectors have been made")


@pytest.mark.parametrize("mode", ["best", "merge"])
def test_answers_outlive_a_judge_that_takes_no_prompt_of_this_length(
    begin: Callable[..., Gateway], tmp_path: Path, mode: str
) -> None:
    command = [sys.executable, "-m", "tests.stand_in_recorder", "--record", str(tmp_path / "record")]
    command += ["--say", "a good answer", "--longest", "400"]
    gateway = begin([{"parallel": {"mode": mode}}], {"demo": {"path": "builtin:demo", "command": command}})
    answer = gateway.chat(messages=say("/parallel hello"))
    assert answer.status_code == 200, answer.text
    assert text_of(answer).strip() == "a good answer"
    told = answer.json()
    assert "too long" in told["parallel"]["judge_error"]
    assert told["usage"]["prompt_tokens"] == 3 * 7
    assert told_by(streamed(gateway, messages=say("/parallel hello"))).strip() == "a good answer"


def test_bytes_that_are_no_text_are_refused(begin: Callable[..., Gateway]) -> None:
    gateway = begin(["rag", "cache"])
    body = {"model": "demo", "messages": HELLO}
    for headers in ({b"X-Agents": b"rag:\xff"}, {b"X-Agents": b"\xff"}):
        answer = gateway.client.post("/v1/chat/completions", json=body, headers=headers)
        assert answer.status_code == 400, answer.text
    for path, kind in (
        ("rag/documents?name=a", b"text/\xff"),
        ("rag/documents?name=%ff%00", b"text/plain"),
        ("rag/%ff", b"text/plain"),
        ("%ff/documents", b"text/plain"),
    ):
        answer = gateway.client.post(f"/v1/agents/{path}", content=b"x", headers={b"Content-Type": kind})
        assert answer.status_code < 500, (path, answer.text)
    assert gateway.client.get("/v1/agents").json()["data"][0]["counters"]["crashes"] == 0
