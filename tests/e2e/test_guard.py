"""What the guard forbids reaches no model server, whatever other agents do; and no client."""

import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import Start
from tests.gateway import Gateway, until

CARD = "4111111111111111"
FORBIDDEN = "top secret"
DOCUMENT = f"Llamas pay by card {CARD}, which is a wise choice."
PATTERNS = {"redact": [r"\d{16}"], "deny": [FORBIDDEN]}

LEAKS = f"""
import msgspec
from agents.api import Agent, AgentError, Chat, Message, Reply, Text
from agents.chat import Image, Sampling, Tool, ToolCall

SECRETS = {{"deny": "{FORBIDDEN}", "": "{CARD}"}}

class Leaks(Agent):
    description = "says what it should not, in every place there is"

    def said(self, secret):
        number = int(secret) if secret.isdigit() else 0
        call = ToolCall(secret, secret, '{{"a": "' + secret + '"}}')
        return dict(
            messages=[
                Message("system", secret),
                Message("user", secret, images=[Image(url="http://127.0.0.1/" + secret)]),
                Message("assistant", secret, reasoning=secret, tool_calls=[call]),
                Message("tool", secret, tool_call_id=secret, tool_name=secret),
                Message("user", "and " + secret),
            ],
            tools=[Tool(secret, secret, {{"enum": [secret, number], secret: 1}})],
            sampling=Sampling(stop=[secret], seed=number),
            format={{"const": secret}},
            extra={{"grammar": secret, secret: number}},
        )

    async def before(self, ctx, request):
        secret = SECRETS[ctx.argument if ctx.argument in SECRETS else ""]
        if ctx.argument == "other":
            return msgspec.structs.replace(request, model="guarded", messages=self.said(secret)["messages"])
        for call in (
            ctx.llm.chat(Chat(model="demo", **self.said(secret))),
            ctx.llm.embed("embed", ["x", secret]),
            ctx.llm.rerank("rank", secret, ["y", secret]),
        ):
            try:
                told = await call
                if ctx.argument == "reply":
                    return Reply.of([Text(told.text)])
            except AgentError as error:
                ctx.log.info("refused", reason=error.message)
        return msgspec.structs.replace(request, **self.said(secret))

    async def after(self, ctx, finished):
        await self.services.llm.chat(Chat(model="guarded", messages=[Message("user", "{CARD}")]))
        (ctx.folder / "done").touch()
"""


class Recorded:
    """A gateway all of whose model servers write down what they get."""

    def __init__(self, start: Start, folder: Path, **guard: Any) -> None:
        self.record = folder / "record"
        command = [sys.executable, "-m", "tests.stand_in_recorder", "--record", str(self.record)]
        command += ["--say", f"my card is {CARD} indeed"]
        model = {"path": "builtin:demo", "command": command}
        (folder / "mine" / "leaks").mkdir(parents=True)
        (folder / "mine" / "leaks" / "agent.py").write_text(LEAKS)
        rag = {"embed_model": "embed", "rerank_model": "rank"}
        self.gateway: Gateway = start(
            dict.fromkeys(("demo", "embed", "rank", "free"), model)
            | {"guarded": {**model, "agents": ["guard"]}},
            agents=[{"guard": {**PATTERNS, **guard}}, {"rag": rag}, {"parallel": {"n": 2}}, "cache", "leaks"],
            agent_folders=[str(folder / "mine")],
            agent_data=str(folder / "data"),
            server_pool={"size": 5},
        )

    def add(self, name: str, text: str) -> None:
        body = {"documents": [{"name": name, "text": text}]}
        assert self.gateway.client.post("/v1/agents/rag/documents", json=body).json()["added"] == 1

    def ask(self, text: str, model: str = "free", **fields: Any) -> tuple[httpx.Response, list[Any]]:
        """The answer, and what model servers got for it."""
        self.record.write_text("")
        answer = self.gateway.chat(model, messages=[{"role": "user", "content": text}], **fields)
        return answer, [json.loads(line) for line in self.record.read_text().splitlines()]


@pytest.fixture
def begin(start: Start, tmp_path: Path) -> Callable[..., Recorded]:
    return lambda **guard: Recorded(start, tmp_path, **guard)


def orders(*names: str) -> list[str]:
    """All subsets of these commands with the guard, in all orders."""
    chosen = itertools.chain.from_iterable(itertools.combinations(names, n) for n in range(1, len(names) + 1))
    return [" ".join(order) for some in chosen for order in itertools.permutations((*some, "/guard"))]


def test_in_whatever_order_no_model_reads_it_and_no_client(begin: Callable[..., Recorded]) -> None:
    recorded = begin()
    recorded.add("cards.txt", DOCUMENT)
    for number, order in enumerate(orders("/rag", "/parallel", "/cache")):
        for _ in range(2 if "/cache" in order else 1):
            question = f"{order} Which card {CARD} do llamas have? {number}"
            answer, got = recorded.ask(question, stream=number % 2 == 1)
            assert answer.status_code == 200, (order, answer.text)
            assert CARD not in json.dumps(got), order
            assert CARD not in answer.text, order
            assert "[redacted]" in answer.text, order
            if "/rag" in order.partition("/parallel")[0]:
                chats = [one["body"] for one in got if "chat" in one["path"]]
                assert all("pay by card [redacted]" in body for body in chats), (
                    "what rag adds is sent, and seen"
                )


def test_in_whatever_order_what_is_denied_reaches_no_model_in_no_part(begin: Callable[..., Recorded]) -> None:
    recorded = begin()
    recorded.add("plan.txt", f"Llamas have a {FORBIDDEN} plan.")
    for order in (*orders("/rag", "/cache"), *orders("/rag", "/parallel"), "/parallel:all /rag /guard"):
        answer, got = recorded.ask(f"{order} a {FORBIDDEN} question")
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "content_filter"), order
        assert got == [], order
        if "/rag" in order.partition("/parallel")[0]:
            answer, got = recorded.ask(f"{order} What plan do llamas have?")
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "content_filter"), order
            assert not any("chat" in one["path"] for one in got), order
            assert FORBIDDEN not in json.dumps(got), order


@pytest.mark.parametrize("order", ["/leaks{} /guard", "/guard /leaks{}", "/guard /cache /leaks{} /parallel"])
def test_what_an_author_s_agent_says_is_guarded_in_every_place(
    begin: Callable[..., Recorded], order: str
) -> None:
    recorded = begin()
    answer, got = recorded.ask(f"{order.format('')} hm?")
    assert answer.status_code == 200, answer.text
    assert {"/v1/embeddings", "/v1/rerank", "/v1/chat/completions"} == {one["path"] for one in got}
    assert CARD not in json.dumps(got)
    assert CARD not in answer.text
    answer, got = recorded.ask(f"{order.format(':reply')} hm?")
    assert "my card is [redacted] indeed" in answer.text
    answer, got = recorded.ask(f"{order.format(':deny')} hm?")
    assert (answer.status_code, got) == (400, [])


def test_a_model_s_own_guard_counts_whoever_calls_it(begin: Callable[..., Recorded], tmp_path: Path) -> None:
    recorded = begin()
    for _ in range(2):
        answer, got = recorded.ask("/cache /leaks:other hm?")
        assert answer.status_code == 200, answer.text
        assert CARD not in json.dumps(got)
        assert CARD not in answer.text
    until((tmp_path / "data" / "leaks" / "done").exists, "the work after it is done")
    assert CARD not in recorded.record.read_text()
    answer, got = recorded.ask(f"x {CARD}", "guarded")
    assert CARD not in json.dumps(got) + answer.text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"input": ["x", "{}"]}),
        ("/v1/rerank", {"query": "{}", "documents": ["{}"]}),
        ("/tokenize", {"content": "{}"}),
        ("/apply-template", {"messages": [{"role": "user", "content": "{}"}]}),
        ("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": "{}"}]}),
        ("/api/embed", {"input": "{}"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "user": "{}"}),
    ],
)
def test_what_generates_nothing_is_guarded_too(begin: Callable[..., Recorded], path: str, body: Any) -> None:
    recorded = begin()
    written = json.dumps({"model": "guarded", **body})
    recorded.gateway.client.post(path, content=written.replace("{}", CARD))
    assert CARD not in recorded.record.read_text()
    assert recorded.record.exists()
    before = recorded.record.read_text()
    refused = recorded.gateway.client.post(path, content=written.replace("{}", FORBIDDEN))
    assert refused.status_code == 400, refused.text
    assert recorded.record.read_text() == before


@pytest.mark.parametrize(
    ("path", "field", "value"),
    [
        ("/v1/embeddings", "input", [1, 2]),
        ("/v1/embeddings", "input", ["x", [1, 2]]),
        ("/v1/embeddings", "input", [["x", 1.5]]),
        ("/tokenize", "content", ["x", 1]),
    ],
)
def test_token_ids_are_no_way_around(
    begin: Callable[..., Recorded], path: str, field: str, value: Any
) -> None:
    recorded = begin()
    body = {"model": "guarded", field: value}
    refused = recorded.gateway.client.post(path, json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "agent_required"), refused.text
    assert not recorded.record.exists()
    assert recorded.gateway.client.post(path, json={**body, "model": "embed"}).status_code == 200


def test_a_body_where_none_belongs_is_no_way_around(begin: Callable[..., Recorded]) -> None:
    recorded = begin(always=True)
    answer = recorded.gateway.client.request("GET", "/upstream/guarded/v1/models", content=CARD)
    assert answer.status_code == 403
