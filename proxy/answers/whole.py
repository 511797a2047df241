"""Answers that are not streamed: passed on, or assembled from a stream's events."""

from collections.abc import Iterable, Iterator

import msgspec
from aiohttp import web

from proxy.answers.call import ModelCall, broken_off
from proxy.answers.relay import count_tokens, is_event_stream
from proxy.apis.answer_json import UnreadableError, reader
from proxy.apis.assemble import Assembler, StreamedError, UnfinishedError, assemble, take
from proxy.apis.openai.server_errors import upstream_error
from proxy.apis.server_errors import to_api_error
from proxy.apis.stream_end import Last, StreamEnd, read_last
from proxy.wire.ndjson import LineSplitter
from proxy.wire.sse import EventSplitter, EventTooLongError, ServerSentEvent
from proxy.wire.upstream_connection import BadAnswerError

PROGRESS = b'"prompt_progress":{'
"""Marks events that report the progress of the prompt, which are not part of the answer."""
ASSEMBLED_LIMIT = 96 * 1024 * 1024
"""Most bytes of events for an assembled answer, because encoding it blocks the event loop."""
CHECK_LIMIT = 4 * 1024 * 1024
"""Bytes up to which a body is parsed. Of a larger body only the first and the last byte are checked."""


def json_response(body: bytes) -> web.Response:
    """Make a response from a JSON body."""
    return web.Response(body=body, content_type="application/json", charset="utf-8")


async def pass_whole(
    call: ModelCall, kinds: tuple[type, ...] = (dict,), end: StreamEnd | None = None
) -> web.Response:
    """Pass on an answer that is not streamed; an error is converted to the client's dialect.

    `end`: the answer was requested as a stream. Raises `BadAnswerError` if the body is not JSON of one of
    these `kinds` (object or list), or contains no answer.
    """
    exchange, head = call.exchange, call.response.head
    body = await call.collect()
    call.lease.served = False
    _check_json(call, body, kinds, end)
    call.lease.served = True
    exchange.first_byte()
    exchange.status = head.status
    exchange.tokens = count_tokens(body)
    content_type = "application/json"
    if head.content_type == content_type:
        content_type = head.headers["content-type"]
    return web.Response(status=head.status, body=body, headers={"Content-Type": content_type})


def _check_json(call: ModelCall, body: bytes, kinds: tuple[type, ...], end: StreamEnd | None) -> None:
    head = call.response.head
    begin, last = body[:1024].lstrip(), body[-1024:].rstrip()
    if not begin:
        raise BadAnswerError(f"the model server answered {head.status} with no body, and JSON was asked for")
    what = f"the model server answered {head.status} with {head.content_type or 'a body of no type'}"
    if (begin[:1], last[-1:]) not in [_BRACKETS[kind] for kind in kinds]:
        raise BadAnswerError(f"{what}, and a JSON {_KINDS[kinds[0]]} was asked for: {body[:80]!r}")
    if len(body) > CHECK_LIMIT:
        return
    try:
        body.decode()
        answer = Last() if begin.startswith(b"[") and _read_list(body) is not None else read_last(body)
    except ValueError as error:
        raise BadAnswerError(f"{what}, which cannot be read: {error}") from None
    if answer.error is not None:
        raise to_api_error(call.server.failure(body, 500))
    if end is not None and begin.startswith(b"{") and not end.is_answer(answer):
        raise BadAnswerError(f"{what}, and no answer in it")


_BRACKETS: dict[type, tuple[bytes, bytes]] = {dict: (b"{", b"}"), list: (b"[", b"]")}
_KINDS: dict[type, str] = {dict: "object", list: "list"}
_read_list = reader(list[msgspec.Raw])


async def assemble_whole(call: ModelCall, assembler: Assembler) -> web.Response:
    """Assemble a whole answer from a stream. Raises `BadAnswerError` if it is not one."""
    exchange, response = call.exchange, call.response
    splitter = EventSplitter() if is_event_stream(response.head) else _Lines()
    size = taken = 0

    def counted(events: Iterable[ServerSentEvent]) -> Iterator[ServerSentEvent]:
        nonlocal taken
        for event in events:
            yield event
            taken += 1

    def feed(payload: bytes, _raw: bytes | None) -> None:
        nonlocal size
        size += len(payload)
        if size > ASSEMBLED_LIMIT:
            raise EventTooLongError(f"an answer of more than {ASSEMBLED_LIMIT} bytes; ask for a stream")
        if PROGRESS not in payload:
            exchange.first_byte()
        take(assembler, counted(splitter.feed(payload)))

    exchange.count_tokens = lambda: taken
    try:
        response.attach(feed)
        await response.finish()
        take(assembler, counted(splitter.end()))
        exchange.first_byte()  # a short answer may arrive in one piece with the progress
        body = assemble(assembler)
    except StreamedError as error:
        failure = upstream_error(500, error.error)
        raise broken_off(failure) if taken else failure from None
    except UnfinishedError as error:
        raise BadAnswerError(f"the model server's answer ended in the middle, without {error}") from None
    except UnreadableError as error:
        raise BadAnswerError(f"the model server's stream makes no sense: {error}") from None
    call.lease.served = True
    exchange.status = 200
    exchange.tokens = count_tokens(body)
    return json_response(body)


class _Lines:
    """Reads lines of JSON as events."""

    def __init__(self) -> None:
        self._splitter = LineSplitter()

    def feed(self, payload: bytes) -> list[ServerSentEvent]:
        return [ServerSentEvent("", line) for line in self._splitter.feed(payload) if line.strip()]

    def end(self) -> list[ServerSentEvent]:
        rest = self._splitter.rest()
        return [ServerSentEvent("", rest)] if rest.strip() else []
