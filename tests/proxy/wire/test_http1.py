"""Response heads and body framings."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.http1 import (
    HEAD_LIMIT,
    ChunkedBody,
    HeadReader,
    LengthBody,
    OpenBody,
    ProtocolError,
    body_of,
    parse_head,
)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """Cut `data` at places anywhere in it."""
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(places)]


CUTS = st.lists(st.integers(0, 10_000), max_size=12)
PAYLOADS = st.lists(st.binary(min_size=1, max_size=200), max_size=8)


def framed(payloads: list[bytes], form: str = "%x", extension: bytes = b"") -> bytes:
    return b"".join((form % len(part)).encode() + extension + b"\r\n" + part + b"\r\n" for part in payloads)


@given(PAYLOADS, CUTS, st.sampled_from(["%x", "%X", "000%x"]), st.sampled_from([b"", b";a=b"]), st.booleans())
def test_chunks_however_they_are_cut(
    payloads: list[bytes], cuts: list[int], form: str, extension: bytes, trailer: bool
) -> None:
    end = b"0\r\n" + (b"X: y\r\n" if trailer else b"") + b"\r\n"
    wire = framed(payloads, form, extension) + end
    body = ChunkedBody()
    got = b""
    for piece in pieces(wire, cuts):
        assert not body.done
        got += body.feed(piece)
    assert got == b"".join(payloads)
    assert body.done
    assert body.rest == b""


@given(PAYLOADS, CUTS)
def test_what_is_passed_on_as_it_came_is_made_of_whole_chunks(payloads: list[bytes], cuts: list[int]) -> None:
    """Raw pieces where `whole`, re-framed payload elsewhere: another decoder must read the same."""
    body, other = ChunkedBody(), ChunkedBody()
    got = b""
    for piece in pieces(framed(payloads) + b"0\r\n\r\n", cuts):
        payload = body.feed(piece)
        passed = piece if body.whole else framed([payload] if payload else [])
        got += other.feed(passed) if passed else b""
        assert got.endswith(payload)
        if passed:
            assert other.whole, "the client's framing is whole at every moment"
    assert got == b"".join(payloads)


def test_what_follows_the_body_is_kept() -> None:
    body = ChunkedBody()
    assert body.feed(b"2\r\nab\r\n0\r\n\r\nHTTP/1.1 200") == b"ab"
    assert (body.done, body.rest) == (True, b"HTTP/1.1 200")
    length = LengthBody(3)
    assert length.feed(b"abcd") == b"abc"
    assert (length.done, length.rest) == (True, b"d")


@pytest.mark.parametrize("wire", [b"xyz\r\n", b"\r\n", b"-5\r\nabc", b"9" * 5000, b"f" * 17 + b"\r\n"])
def test_sizes_that_are_none(wire: bytes) -> None:
    with pytest.raises(ProtocolError):
        ChunkedBody().feed(wire)


@pytest.mark.parametrize("length", [*range(2, 300), 4094, 4095, 4096, 5000])
@pytest.mark.parametrize("begin", [b"!", b"\0", b"x\r\n"])
def test_no_length_makes_a_chunk_of_what_is_none(begin: bytes, length: int) -> None:
    with pytest.raises(ProtocolError):
        ChunkedBody().feed(begin.ljust(length - 2, b"\0") + b"\r\n")


@pytest.mark.parametrize("size", [1, 15, 16, 255, 256, 4085, 4086, 4095, 4096, 70_000])
def test_a_chunk_of_any_size_is_whole_at_once(size: int) -> None:
    body = ChunkedBody()
    assert body.feed(b"%x\r\n%b\r\n" % (size, b"y" * size)) == b"y" * size
    assert body.whole


def test_heads() -> None:
    head = parse_head(b"HTTP/1.1 200 OK\r\nContent-Type: Text/Event-Stream; charset=x\r\nA: 1\r\na: 2")
    assert (head.status, head.content_type, head.headers["a"]) == (200, "text/event-stream", "1, 2")
    assert head.keeps_alive
    assert not parse_head(b"HTTP/1.1 200 OK\r\nConnection: Close").keeps_alive
    assert not parse_head(b"HTTP/1.0 204 None").keeps_alive


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"HTTP/2 200 OK", b"HTTP/1.1 abc", b"HTTP/1.1 200 OK\r\nno colon"]
)
def test_what_is_no_head(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_head(data)


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked", ChunkedBody),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5", LengthBody),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5", LengthBody),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5", LengthBody),
        (b"HTTP/1.1 204 None", LengthBody),
        (b"HTTP/1.1 200 OK", OpenBody),
    ],
)
def test_framings(head: bytes, kind: type) -> None:
    assert isinstance(body_of(parse_head(head)), kind)


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: -5",
        b"Content-Length: +5",
        b"Content-Length: ",
        b"Content-Length: 5, 6",
        b"Content-Length: 5\r\nContent-Length: 6",
        b"Content-Length: " + b"9" * 6000,
        b"Content-Length: 5\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: chunked, chunked",
        b"Transfer-Encoding: xchunked",
    ],
)
def test_framings_that_are_none(headers: bytes) -> None:
    with pytest.raises(ProtocolError):
        body_of(parse_head(b"HTTP/1.1 200 OK\r\n" + headers))


def test_an_answer_to_head_has_no_body() -> None:
    assert body_of(parse_head(b"HTTP/1.1 200 OK\r\nContent-Length: 5"), "HEAD").done
    assert body_of(parse_head(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked"), "HEAD").done


@pytest.mark.parametrize("size", [1, 7, 10**6])
def test_a_head_however_it_is_cut(size: int) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\n" * 5000
    wire = interim + b"HTTP/1.1 200 OK\r\nA: " + b"x" * 30_000 + b"\r\n\r\nbody"
    reader = HeadReader()
    assert not reader.has_begun
    found, rest = None, b""
    for start in range(0, len(wire), size):
        piece = wire[start : start + size]
        if found is not None:
            rest += piece
        elif (result := reader.feed(piece)) is not None:
            found, rest = result
        assert reader.has_begun
    assert found is not None
    assert (found.status, len(found.headers["a"]), rest) == (200, 30_000, b"body")


@pytest.mark.parametrize(
    "wire",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n" * 50_000,
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 000 None\r\n\r\n",
        b"HTTP/1.1 099 None\r\n\r\n",
        b"HTTP/1.1 600 None\r\n\r\n",
        b"HTTP/1.1 999 None\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na b: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: x\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: \x00\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: x\ny\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: x\ry\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: \x1b[31m\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA\xff: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: x\r\n" * 1000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * HEAD_LIMIT,
        b"{",
        b"\xff",
    ],
)
def test_heads_that_are_none(wire: bytes) -> None:
    with pytest.raises(ProtocolError):
        HeadReader().feed(wire)


def test_values_are_kept_as_they_came() -> None:
    head = parse_head("HTTP/1.1 200 OK\r\nA: \u4e16\r\nB:".encode())
    assert head.headers == {"a": "\u4e16", "b": ""}
    assert parse_head(b"HTTP/1.1 200 OK\r\nA: \xe9").headers == {"a": "\xe9"}


def test_trailers_end() -> None:
    body = ChunkedBody()
    body.feed(b"0\r\n")
    with pytest.raises(ProtocolError):
        body.feed(b"X: y\r\n" * HEAD_LIMIT)
