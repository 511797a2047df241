"""Traces by the W3C's Trace Context: valid ones are passed on and logged, others are dropped in silence."""

from collections.abc import Sequence

import pytest
import structlog
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from agents.api import Agent, Context, Reply
from agents.chat import Chat
from agents.host.discovery import Loaded
from proxy.wire.trace_context import trace_of
from tests.proxy.scripted import Door, door, json_answer, request_body, scripted

ID, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
VALID = f"00-{ID}-{PARENT}-01"
ANSWER = json_answer({"choices": [{"message": {"content": "x"}}], "tokens": [1]})


def headers(parents: Sequence[str], states: Sequence[str] = ()) -> CIMultiDict[str]:
    named = [("TraceParent", one) for one in parents] + [("tracestate", one) for one in states]
    return CIMultiDict(named)


@pytest.mark.parametrize(
    "parent", [VALID, f"00-{ID}-{PARENT}-ff", f"01-{ID}-{PARENT}-00", f"fe-{ID}-{PARENT}-00-more-of-it"]
)
def test_valid(parent: str) -> None:
    trace = trace_of(headers([parent]))
    assert trace is not None
    assert (trace.id, trace.headers) == (ID, {"traceparent": parent})


@pytest.mark.parametrize(
    "parents",
    [
        [],
        [""],
        [VALID, VALID],
        [VALID.upper()],
        [VALID + "-more"],
        [VALID + "0"],
        [f"ff-{ID}-{PARENT}-01"],
        [f"0-{ID}-{PARENT}-01"],
        [f"01-{ID}-{PARENT}-01more"],
        [f"00-{'0' * 32}-{PARENT}-01"],
        [f"00-{ID}-{'0' * 16}-01"],
        [f"00-{ID[1:]}-{PARENT}-01"],
        [f"00-{ID}-{PARENT}"],
        [f"00_{ID}_{PARENT}_01"],
        [f"00-{ID}-{PARENT}-0g"],
    ],
)
def test_invalid(parents: list[str]) -> None:
    assert trace_of(headers(parents, ["a=1"])) is None


@pytest.mark.parametrize(
    ("states", "passed"), [(["a=1", "b=2"], "a=1,b=2"), ([], None), ([""], None), (["a=\x7f"], None)]
)
def test_the_state_goes_with_it(states: list[str], passed: str | None) -> None:
    trace = trace_of(headers([VALID], states))
    assert trace is not None
    assert trace.headers.get("tracestate") == passed


LIKELY = st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", fullmatch=True)


@given(st.lists(st.text("0f-a", max_size=60) | LIKELY, max_size=2))
def test_an_id_is_never_one_that_the_standard_forbids(parents: list[str]) -> None:
    if (trace := trace_of(headers(parents))) is not None:
        assert len(trace.id) == 32
        assert int(trace.id, 16) > 0
        assert trace.headers["traceparent"] == parents[0]


CASES = {
    "unchanged": ("POST", "/v1/chat/completions"),
    "translated": ("POST", "/api/chat"),
    "passed through": ("GET", "/upstream/demo/props"),
}


async def ask(opened: Door, case: str, traces: Sequence[str]) -> int:
    method, path = CASES[case]
    client = await opened.connect()
    body = b"" if method == "GET" else web.json_response(request_body(path, stream=False)).body
    assert isinstance(body, bytes)
    lines = [f"{method} {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", "Tracestate: a=1"]
    lines += [f"Traceparent: {one}" for one in traces]
    await client.send("\r\n".join([*lines, "", ""]).encode() + body)
    return (await client.answer(method)).status


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("traces", [[VALID], [VALID.upper()], [VALID, VALID], []])
async def test_the_model_server_gets_it_and_the_log_too(case: str, traces: list[str]) -> None:
    async with scripted([ANSWER]) as server, door(server) as opened:
        with structlog.testing.capture_logs() as logs:
            await ask(opened, case, traces)
        (got,) = server.requests
        (line,) = [line for line in logs if line["event"] == "request"]
        valid = traces == [VALID]
        assert got.all("traceparent") == ([VALID] if valid else [])
        assert got.all("tracestate") == (["a=1"] if valid else [])
        assert line.get("trace_id") == (ID if valid else None)
        assert {one["event"] for one in logs} == {"request"}, "an invalid one is no event"


async def test_a_trace_ends_with_its_request() -> None:
    live = "GET /health/live HTTP/1.1\r\nHost: x\r\n"
    async with door() as opened:
        client = await opened.connect()
        with structlog.testing.capture_logs() as logs:
            await client.send(f"{live}Traceparent: {VALID}\r\n\r\n{live}\r\n".encode())
            for _ in range(2):
                await client.answer("GET")
        assert [line.get("trace_id") for line in logs if line["event"] == "request"] == [ID, None]


class Relays(Agent):
    """Answers with what the model says."""

    async def before(self, ctx: Context, request: Chat) -> Chat | Reply:
        return Reply(ctx.llm.stream(request))


AGENTS = [Loaded("relays", __name__, Relays, Relays.Config())]


async def test_calls_of_agents_belong_to_it() -> None:
    async with scripted([ANSWER]) as server, door(server, agents=AGENTS) as opened:
        client = await opened.connect()
        body = web.json_response(request_body("/v1/chat/completions", agents=["relays"])).body
        assert isinstance(body, bytes)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTraceparent: {VALID}\r\n"
        await client.send(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await client.answer()
    (got,) = server.requests
    assert got.all("traceparent") == [VALID]
