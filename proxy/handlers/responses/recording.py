"""Keeps an answer that its client gets: before the client can ask for it, as its last event is written."""

from collections.abc import Callable

import msgspec

from agents.events import Answer, AnswerFailed, Done, Event
from proxy.apis.fields import Json
from proxy.apis.interface import AnswerContext, Codec, Endpoint
from proxy.apis.responses import answer as writer
from proxy.apis.responses.endpoints import CODEC
from proxy.apis.responses.kept import to_keep

Keep = Callable[[Json], None]
"""Keeps a response as it stands."""


def recorded(endpoint: Endpoint, token: str, keep: Keep) -> Endpoint:
    """Return the endpoint with a codec that keeps the answer, whose ids have the token."""

    def encoder(context: AnswerContext) -> _Recorder:
        return _Recorder(writer.Encoder(msgspec.structs.replace(context, token=token)), keep)

    def encode_answer(whole: Answer, context: AnswerContext, now: float) -> Json:
        response = writer.encode_answer(whole, msgspec.structs.replace(context, token=token), now)
        keep(response)
        return response

    codec = Codec(decode=CODEC.decode, encoder=encoder, encode_answer=encode_answer)
    return msgspec.structs.replace(endpoint, codec=codec)


class _Recorder:
    """Writes a stream, and keeps the response at its end."""

    def __init__(self, encoder: writer.Encoder, keep: Keep) -> None:
        self._encoder = encoder
        self._keep = keep

    def encode(self, event: Event, now: float) -> bytes:
        data = self._encoder.encode(event, now)
        if data and isinstance(event, Done | AnswerFailed) and self._encoder.response:
            self._keep(to_keep(self._encoder.response))
        return data
