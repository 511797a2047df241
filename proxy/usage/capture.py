"""A captured request: its bytes while it runs, and what is kept of them."""

from collections.abc import Mapping

import msgspec

from proxy.usage.redaction import Redaction, credentials_of
from proxy.usage.rows import Recordable
from proxy.wire.http1 import HeadReader, ProtocolError, body_of


class CapturedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request. `truncated`: its body had more bytes than may be captured."""

    method: str
    path: str
    headers: dict[str, str]
    body: str
    truncated: bool


class CapturedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer as the client got it. Without a status it did not begin, or it was cut off in its head."""

    status: int | None
    headers: dict[str, str]
    body: str
    truncated: bool


class Captured(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a request, without secrets. `at` is when it began, in Unix time."""

    id: str
    at: float
    key: str | None
    model: str | None
    endpoint: str
    status: int
    outcome: str
    request: CapturedRequest
    answer: CapturedAnswer


class Room:
    """The bytes that all captures in memory may still take."""

    def __init__(self, size: int) -> None:
        self.left = size

    def take(self, wanted: int) -> int:
        """Take up to so many bytes; return how many."""
        taken = max(0, min(wanted, self.left))
        self.left -= taken
        return taken


class Capture:
    """The bytes of one request and its answer, at most `limit` of each."""

    def __init__(self, room: Room, limit: int) -> None:
        self._room = room
        self._limit = self._answer_limit = limit
        self._held = 0
        self._line = ("", "")
        self._headers: dict[str, str] = {}
        self._body = b""
        self._is_cut = self._is_answer_cut = False
        self._pieces: list[bytes] = []
        self._whole: tuple[int, dict[str, str], bytes] | None = None

    def take_request(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> None:
        """Keep the request."""
        self._line = method, path
        self._headers = dict(headers)
        self._body = self._take(body, self._limit)
        self._is_cut = len(self._body) < len(body)

    def take_piece(self, data: bytes) -> None:
        """Keep what is written to the client's connection: a piece of the answer, with its framing."""
        piece = self._take(data, self._answer_limit)
        self._pieces.append(piece)
        self._answer_limit -= len(piece)
        self._is_answer_cut = self._is_answer_cut or len(piece) < len(data)

    def take_answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Keep an answer that is not written in pieces."""
        kept = self._take(body, self._limit)
        self._is_answer_cut = len(kept) < len(body)
        self._whole = status, dict(headers), kept

    def release(self) -> None:
        """Give back the room that it takes."""
        self._room.left += self._held
        self._held = 0

    def _take(self, data: bytes, limit: int) -> bytes:
        granted = self._room.take(min(len(data), limit))
        self._held += granted
        return bytes(data[:granted])

    def read(self, of: Recordable) -> Captured:
        """Return what is kept of the request, without secrets. This takes a while for a long one."""
        method, path = self._line
        status, headers, body = self._whole or _parsed(b"".join(self._pieces))
        redaction = Redaction(credentials_of(self._headers))
        return Captured(
            id=of.request_id,
            at=of.started,
            key=of.client or None,
            model=of.model,
            endpoint=of.endpoint,
            status=of.status,
            outcome=of.outcome,
            request=CapturedRequest(
                method=method,
                path=redaction.path(path),
                headers=redaction.headers(self._headers),
                body=redaction.text(_text(self._body)),
                truncated=self._is_cut,
            ),
            answer=CapturedAnswer(
                status=status,
                headers=redaction.headers(headers),
                body=redaction.answer(_text(body)),
                truncated=self._is_answer_cut,
            ),
        )


def _parsed(data: bytes) -> tuple[int | None, dict[str, str], bytes]:
    """Return status, headers and body of an answer with its framing, perhaps cut off."""
    try:
        found = HeadReader().feed(data) if data else None
        if found is None:
            return None, {}, b""
        head, rest = found
        return head.status, head.headers, body_of(head).feed(rest)
    except ProtocolError:  # it is the gateway's own answer, so this does not happen
        return None, {}, data


def _text(data: bytes) -> str:
    return data.decode(errors="replace")
