"""Responses that are kept: continued, retrieved, listed, deleted, and answered in the background."""

import signal
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.responses import Response

from tests.conftest import DEMO
from tests.gateway import Gateway, running, until
from tests.openai_types import check_response, check_stream, events_of

Json = dict[str, Any]
CONFIG: Json = {"llama_cpp": {"models": {"demo": DEMO}}, "server": {"keep_responses": 3600}}
FOREVER: Any = {"input": "forever", "extra_body": {"ignore_eos": True}}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def gateway(data: Path, cache: str, real_server: None) -> Iterator[Gateway]:
    with running(CONFIG, data, XDG_CACHE_HOME=cache, XDG_DATA_HOME=str(data)) as started:
        yield started


def opened(gateway: Gateway) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0)


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with opened(gateway) as made:
        yield made


def create(client: openai.OpenAI, **fields: Any) -> Response:
    body: Any = {"model": "demo", "input": "hello", "temperature": 0, "max_output_tokens": 20, **fields}
    made: Response = client.responses.create(**body)
    return made


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_is_there_at_once(client: openai.OpenAI, stream: bool) -> None:
    if stream:
        with client.responses.stream(model="demo", input="hello", max_output_tokens=20) as events:
            made: Any = list(events)[-1]
            made = made.response
    else:
        made = create(client)
    assert client.responses.retrieve(made.id).to_dict() == made.to_dict()
    again = create(client, input="go on", previous_response_id=made.id, max_output_tokens=5)
    assert again.previous_response_id == made.id
    assert again.usage is not None
    assert again.usage.input_tokens > made.usage.input_tokens + made.usage.output_tokens
    items = client.responses.input_items.list(again.id, order="asc").data
    assert [getattr(item, "role", item.type) for item in items] == ["user", "assistant", "user"]
    assert all(item.id for item in items)


def test_pages_of_items(client: openai.OpenAI) -> None:
    history: Any = [{"role": "user", "content": f"number {number}"} for number in range(5)]
    made = create(client, input=history)
    every: Any = list(client.responses.input_items.list(made.id, limit=2))
    assert [item.content[0].text for item in every] == [f"number {number}" for number in range(4, -1, -1)]
    with pytest.raises(openai.BadRequestError):
        client.responses.input_items.list(made.id, limit=0)
    with pytest.raises(openai.BadRequestError):
        client.responses.input_items.list(made.id, after="msg_x")


def test_references_to_items(client: openai.OpenAI) -> None:
    made = create(client)
    history: Any = [
        {"role": "user", "content": "hello"},
        {"type": "item_reference", "id": made.output[0].id},
        {"role": "user", "content": "go on"},
    ]
    raw = client.responses.with_raw_response.create(model="demo", input=history, max_output_tokens=5)
    assert "X-Gateway-Ignored" not in raw.headers
    usage, before = raw.parse().usage, made.usage
    assert usage is not None
    assert before is not None
    assert usage.input_tokens > before.input_tokens + before.output_tokens


def test_a_deleted_response_is_gone(client: openai.OpenAI) -> None:
    made = create(client)
    client.responses.delete(made.id)
    for ask in (client.responses.retrieve, client.responses.delete, client.responses.input_items.list):
        with pytest.raises(openai.NotFoundError) as caught:
            ask(made.id)
        assert caught.value.code == "response_not_found"
    with pytest.raises(openai.BadRequestError) as refused:
        create(client, previous_response_id=made.id)
    assert refused.value.code == "previous_response_not_found"


def test_what_is_not_to_be_stored_is_not(client: openai.OpenAI) -> None:
    made = create(client, store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)


def test_nobody_else_reads_the_file(client: openai.OpenAI, data: Path) -> None:
    create(client)
    found = until(lambda: list(data.glob("llama-smart-proxy/responses.sqlite3*")), "the file")
    assert {stat.S_IMODE(file.stat().st_mode) for file in found} == {0o600}


# In the background


def finished(client: openai.OpenAI, response_id: str) -> Response:
    def look() -> Response | None:
        response = client.responses.retrieve(response_id)
        return None if response.status in ("queued", "in_progress") else response

    found: Response = until(look, "it is answered")
    return found


def test_background(client: openai.OpenAI) -> None:
    queued = create(client, background=True)
    assert (queued.status, queued.background, queued.output) == ("queued", True, [])
    made = finished(client, queued.id)
    check_response(made.to_dict())
    assert made.status in ("completed", "incomplete")
    assert made.output_text == create(client).output_text
    assert client.responses.cancel(queued.id).to_dict() == made.to_dict()


def test_a_stream_of_it_can_be_left_and_taken_up_again(gateway: Gateway, client: openai.OpenAI) -> None:
    fields: Any = {"background": True, "stream": True}
    stream: Any = client.responses.create(model="demo", input="hello", max_output_tokens=20, **fields)
    first = next(stream)
    stream.close()
    rest = list(client.responses.retrieve(first.response.id, stream=True, starting_after=0))
    assert [event.sequence_number for event in rest] == list(range(1, 1 + len(rest)))
    assert (first.type, rest[0].type) == ("response.created", "response.queued")
    assert rest[-1].type in ("response.completed", "response.incomplete")
    told = gateway.client.get(f"/v1/responses/{first.response.id}?stream=true").content
    whole = check_stream(events_of(told))
    assert whole == client.responses.retrieve(first.response.id).to_dict()


def test_cancelled(gateway: Gateway, client: openai.OpenAI) -> None:
    made = create(client, background=True, max_output_tokens=100_000, **FOREVER)
    until(lambda: client.responses.retrieve(made.id).status == "in_progress", "it is under way")
    assert client.responses.cancel(made.id).status == "cancelled"
    assert client.responses.retrieve(made.id).status == "cancelled"
    assert gateway.model("demo")["busy"] == 0
    with pytest.raises(openai.BadRequestError):
        client.responses.cancel(create(client).id)


def test_background_that_fails(client: openai.OpenAI) -> None:
    made = create(client, background=True, extra_body={"grammar": "no grammar"})
    failed = finished(client, made.id)
    assert failed.status == "failed"
    assert failed.error is not None
    assert failed.error.message
    unknown = finished(client, create(client, model="nope", background=True).id)
    assert unknown.error is not None
    assert (unknown.status, unknown.error.type) == ("failed", "model_not_found")
    with pytest.raises(openai.BadRequestError) as caught:
        create(client, background=True, store=False)
    assert caught.value.param == "store"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_it_outlives_the_gateway(
    tmp_path: Path, cache: str, real_server: None, number: signal.Signals
) -> None:
    """What is finished is there in the next life; what was under way has failed."""
    config: Json = {**CONFIG, "server": {"keep_responses": 3600, "drain_timeout": 0.1}}
    with running(config, tmp_path, XDG_CACHE_HOME=cache) as gateway, opened(gateway) as client:
        made = create(client)
        endless = create(client, background=True, max_output_tokens=100_000, **FOREVER)
        until(lambda: client.responses.retrieve(endless.id).status == "in_progress", "it is under way")
        database = tmp_path / "data" / "llama-smart-proxy" / "responses.sqlite3"
        until(lambda: {made.id, endless.id} <= ids_in(database), "both are written down")
        gateway.stop(number)
    with running(config, tmp_path, XDG_CACHE_HOME=cache) as gateway, opened(gateway) as client:
        assert client.responses.retrieve(made.id).to_dict() == made.to_dict()
        told = gateway.client.get(f"/v1/responses/{made.id}?stream=true").content
        assert check_stream(events_of(told)) == made.to_dict()
        last = list(client.responses.retrieve(made.id, stream=True, starting_after=900))
        assert [event.sequence_number for event in last] == [901]
        failed = client.responses.retrieve(endless.id)
        check_response(failed.to_dict())
        assert failed.status == "failed"
        assert failed.error is not None
        assert failed.error.message


def ids_in(database: Path) -> set[str]:
    """The ids of the responses in the file."""
    with (
        suppress(sqlite3.OperationalError),
        closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as file,
    ):
        return {row[0] for row in file.execute("SELECT id FROM responses")}
    return set()  # it is still being made


def test_without_the_setting(tmp_path: Path, cache: str, real_server: None) -> None:
    """The reason names it. References to items of the last hour work all the same."""
    with running({"llama_cpp": CONFIG["llama_cpp"]}, tmp_path, XDG_CACHE_HOME=cache) as gateway:
        with opened(gateway) as client:
            made = client.responses.with_raw_response.create(model="demo", input="hello", store=True)
            assert made.headers["X-Gateway-Ignored"] == "store"
            item = made.parse().output[0].id
            history: Any = [{"type": "item_reference", "id": item}, {"role": "user", "content": "go on"}]
            later = client.responses.with_raw_response.create(model="demo", input=history, store=False)
            assert "X-Gateway-Ignored" not in later.headers
            history[0]["id"] = later.parse().output[0].id
            last = client.responses.with_raw_response.create(model="demo", input=history)
            assert last.headers["X-Gateway-Ignored"] == "input[0] item_reference"
            refused: list[Callable[[], Any]] = [
                lambda: create(client, previous_response_id="resp_1"),
                lambda: create(client, background=True),
                lambda: client.responses.retrieve("resp_1"),
                lambda: client.responses.cancel("resp_1"),
                lambda: client.responses.delete("resp_1"),
                lambda: client.responses.input_items.list("resp_1"),
            ]
            for ask in refused:
                with pytest.raises(openai.BadRequestError, match="keep_responses"):
                    ask()
        assert not list(tmp_path.glob("**/responses.sqlite3*"))
