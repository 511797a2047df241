"""The gateway's models, for calls by agents. Each call takes its own lease, like a client's request."""

from collections import deque
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Annotated

import msgspec

from actors.scheduler.lifecycle import State
from agents.chat import Chat
from agents.errors import ModelCallError
from agents.events import AnswerFailed, Done, Event, Usage
from agents.llm import CALLER, ModelInfo
from proxy.access.keys import Key
from proxy.answers import translate
from proxy.answers.call import ModelCaller, UpstreamRequest, post
from proxy.answers.embed import Vectors
from proxy.apis.answer_json import UnreadableError, reader
from proxy.apis.embeddings import Embed
from proxy.apis.interface import Decoder
from proxy.apis.server_errors import of_api_error, to_api_error
from proxy.catalog import Catalog
from proxy.errors import ApiError
from proxy.exchange import Account, Exchange, request_id_of
from proxy.wire.trace_context import TRACE
from proxy.wire.upstream_connection import UpstreamResponse

AHEAD = 256
"""Number of events by which a model may be ahead of the reading agent before it is slowed down."""


class _Ranked(msgspec.Struct):
    index: Annotated[int, msgspec.Meta(ge=0)]
    relevance_score: float


class _Ranking(msgspec.Struct):
    results: list[_Ranked]


_read_ranking = reader(_Ranking)


class _Events:
    """Sink of a response: queues its events for a reader in another task."""

    def __init__(self, response: UpstreamResponse, decoder: Decoder) -> None:
        self._response = response
        self._decoder = decoder
        self._come: deque[Event] = deque()

    def feed(self, payload: bytes, _raw: bytes | None) -> None:
        """Decode a piece of the body."""
        self._come.extend(self._decoder.feed(payload))
        if self._come:
            self._response.notify()
        if len(self._come) > AHEAD:
            self._response.pause()

    async def read(self) -> AsyncGenerator[Event, None]:
        """Yield all events, to the end."""
        self._response.attach(self.feed)
        while True:
            while self._come:
                yield self._come.popleft()
            self._response.resume()
            if self._response.finished:
                break
            await self._response.until(lambda: bool(self._come))
        await self._response.finish()
        for event in self._decoder.end():
            yield event


class Models:
    """Implements `agents.llm.LLM`."""

    def __init__(self, caller: ModelCaller, catalog: Catalog) -> None:
        self.accounts: tuple[Account, ...] = ()
        """Called with each finished call."""
        self.key_of: Callable[[str], Key | None] = lambda _: None
        """Returns the key with this name, whose limits a call counts against."""
        self._caller = caller
        self._catalog = catalog

    async def stream(self, request: Chat, *, key: str = "") -> AsyncGenerator[Event, None]:
        """Yield the answer's events, up to `Done` or `AnswerFailed`. Closing the iterator ends the lease."""
        exchange = self._begin(request.model, key)
        exchange.generates = True
        is_whole = False
        try:
            known = await self._catalog.find(request.model)
            exchange.preset = known.preset
            question = translate.chat_question(exchange, known, request)
            async with self._caller.call(exchange, question) as call:
                await call.check_stream()
                async for event in _Events(call.response, translate.decoder_of(call, request)).read():
                    exchange.first_byte()
                    if isinstance(event, Usage):
                        exchange.tokens = translate.tokens_of(event)
                    elif isinstance(event, AnswerFailed):
                        exchange.failed(to_api_error(event))
                    elif isinstance(event, Done):
                        call.lease.served = is_whole = True  # the reader may not come back for more
                    yield event
                call.lease.served = exchange.status < 500
        except ApiError as error:
            exchange.failed(error)
            yield of_api_error(error)
        except GeneratorExit:
            if not is_whole:
                exchange.client_left()
            raise
        finally:
            exchange.finish()

    async def embed(self, model: str, texts: list[str], *, key: str = "") -> list[list[float]]:
        """Return a vector for each text."""
        exchange = self._begin(model, key)
        try:
            known = await self._catalog.find(model)
            answer = await Vectors(self._caller, exchange, known).of(Embed(model=model, inputs=texts))
            exchange.tokens = {"prompt_tokens": answer.prompt}
            return answer.vectors
        except ApiError as error:
            exchange.failed(error)
            raise _call_error(error) from None
        finally:
            exchange.finish()

    async def rerank(self, model: str, query: str, texts: list[str], *, key: str = "") -> list[float]:
        """Rate each text's relevance to the query; higher is more relevant."""
        exchange = self._begin(model, key)
        body = msgspec.json.encode({"model": model, "query": query, "documents": texts, "top_n": len(texts)})
        try:
            known = await self._catalog.find(model)
            if known.api != "llama.cpp":
                message = f"model {model!r} is served by {known.api}, which does not rerank"
                raise ApiError(400, message, code="not_supported")
            question = UpstreamRequest(known.name, partial(post, exchange, "/v1/rerank", body))
            async with self._caller.call(exchange, question) as call:
                ranking = await call.collect()
        except ApiError as error:
            exchange.failed(error)
            raise _call_error(error) from None
        finally:
            exchange.finish()
        scores = [0.0] * len(texts)
        try:
            for ranked in _read_ranking(ranking).results:
                scores[ranked.index] = ranked.relevance_score
        except (UnreadableError, IndexError) as error:
            message = f"model {model!r} answered no ranking: {error}"
            raise ModelCallError(message, status=502, code="upstream_error") from None
        return scores

    async def own_name(self, model: str) -> str:
        """Return a model's configured name, given any of its names; an unknown name is returned unchanged."""
        try:
            return (await self._catalog.find(model)).name
        except ApiError:
            return model  # the call itself will report the reason

    def models(self) -> list[ModelInfo]:
        """Return all models, loaded or not."""
        return [
            ModelInfo(
                name=model.name,
                aliases=model.aliases,
                loaded=model.state in (State.READY, State.DRAINING),
                slots=model.slots,
            )
            for model in self._catalog.models
        ]

    def _begin(self, model: str, key: str) -> Exchange:
        exchange = Exchange("CALL", "agents", request_id_of(None), self.accounts)
        exchange.endpoint = "agents"
        exchange.model = model
        exchange.status = 200
        exchange.agent = CALLER.get()
        exchange.recorded = True
        exchange.trace = TRACE.get()
        exchange.key = self.key_of(key)
        return exchange


def _call_error(error: ApiError) -> ModelCallError:
    return ModelCallError(error.message, status=error.status, code=error.code, retry_after=error.retry_after)
