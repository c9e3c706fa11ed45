"""Heads and bodies of HTTP/1.1 answers, however they are cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miner.core.transport.framing import FramingError
from miner.core.transport.http1 import BrokenOffError, Chunked, Head, Headers, Sized, UntilClosed, body_of, parse_head

TOKEN = b'data: {"choices":[{"delta":{"content":" is"}}]}\n\n'
TRICKY = b"\r\n5\r\nhello\r\n0\r\n\r\n"


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + end


def read(pieces: list[bytes]) -> tuple[bytes, Chunked]:
    body = Chunked()
    return b"".join(body.feed(piece) for piece in pieces), body


CHUNKS = st.lists(st.one_of(st.binary(min_size=1, max_size=40), st.just(TOKEN), st.just(TRICKY)), max_size=12)


@given(
    CHUNKS,
    st.lists(st.integers(0, 600), max_size=12),
    st.sampled_from([b"0\r\n\r\n", b"0\r\nx-sum: 1\r\n\r\n", b"00;a=b\r\n\r\n"]),
)
def test_chunks_come_out_as_they_went_in_however_they_are_cut(chunks: list[bytes], cuts: list[int], end: bytes):
    wire = chunked(*chunks, end=end)
    places = [0, *sorted(cut for cut in cuts if cut < len(wire)), len(wire)]
    content, body = read([wire[a:b] for a, b in pairwise(places) if a < b])
    assert content == b"".join(chunks)
    assert body.done
    assert body.rest == b""


def test_chunks_cut_at_every_byte():
    chunks = [TOKEN, TRICKY, b"x", b"\r\n", TOKEN]
    wire = chunked(*chunks)
    for cut in range(1, len(wire)):
        content, body = read([wire[:cut], wire[cut:]])
        assert (content, body.done) == (b"".join(chunks), True)
    content, body = read([wire[at : at + 1] for at in range(len(wire))])
    assert (content, body.done) == (b"".join(chunks), True)


def test_what_comes_behind_the_end_is_not_content():
    content, body = read([chunked(TOKEN) + b"HTTP/1.1 200 OK"])
    assert (content, body.done, body.rest) == (TOKEN, True, b"HTTP/1.1 200 OK")


@pytest.mark.parametrize(
    "wire",
    [
        b"zz\r\nhello\r\n", b"-5\r\nhello\r\n", b"0x5\r\nhello\r\n", b"\r\n5\r\nhello\r\n", b"5\r\nhello!\r\n",
        b"5\r\nhell\r\n0\r\n\r\n", b"5 5\r\nhello\r\n", b"f" * 16 + b"\r\n", b"5" * 5000, b"5\nhello\n",
        chunked(TOKEN, TOKEN, end=b"5\r\nhello!!"), chunked(TOKEN, end=b"4\r\nhello\r\n5\r\nhello\r\n0\r\n\r\n"),
    ],
)  # fmt: skip
def test_what_is_no_chunk_is_garbage(wire: bytes):
    for pieces in ([wire], [wire[at : at + 1] for at in range(len(wire))]):
        with pytest.raises((FramingError, BrokenOffError)):
            read(pieces)[1].end()


def test_an_end_before_the_end():
    for body, sent in ((Chunked(), chunked(TOKEN, end=b"")), (Chunked(), b""), (Sized(5), b"hell")):
        body.feed(sent)
        with pytest.raises(BrokenOffError):
            body.end()
    body = UntilClosed()
    assert body.feed(b"hello") == b"hello"
    body.end()
    assert body.done


def test_a_body_of_known_length():
    body = Sized(5)
    assert (body.feed(b"hel"), body.done) == (b"hel", False)
    assert (body.feed(b"lo!"), body.done, body.rest) == (b"lo", True, b"!")
    assert Sized(0).done


def head(*lines: str) -> Head:
    return parse_head("\r\n".join(lines).encode("latin-1"))


def test_heads():
    told = head("HTTP/1.1 200 OK", "Content-Type: text/event-stream", "X-A:  1 ", "x-a: 2", "Empty:")
    assert (told.status, told.keeps) == (200, True)
    assert told.headers["content-type"] == told.headers.get("CONTENT-TYPE") == "text/event-stream"
    assert (told.headers["X-A"], told.headers["empty"], "X-a" in told.headers, "b" in told.headers) == (
        "1, 2",
        "",
        True,
        False,
    )
    assert not head("HTTP/1.1 200 OK", "Connection: Close").keeps
    assert not head("HTTP/1.0 200 OK").keeps
    assert head("HTTP/1.1 429").status == 429


@pytest.mark.parametrize(
    "lines",
    [
        ["HTTP/2 200 OK"], ["HTTP/1.1 99 No"], ["HTTP/1.1 2000 No"], ["hello"], ["", "HTTP/1.1 200 OK"],
        ["HTTP/1.1 200 OK", "no colon"], ["HTTP/1.1 200 OK", ": no name"], ["HTTP/1.1 200 OK", "name : value"],
        ["HTTP/1.1 200 OK", "a: b\nc: d"], ["HTTP/1.1 200 OK", " folded: x"],
    ],
)  # fmt: skip
def test_what_is_no_head(lines: list[str]):
    with pytest.raises(FramingError):
        head(*lines)


@pytest.mark.parametrize(
    ("status", "headers", "kind"),
    [
        (200, {"transfer-encoding": "chunked", "content-length": "7"}, Chunked),
        (200, {"content-length": "7"}, Sized),
        (200, {}, UntilClosed),
        (204, {}, Sized),
    ],
)
def test_how_a_body_ends(status: int, headers: dict[str, str], kind: type):
    assert type(body_of(Head(status, Headers(headers), keeps=True))) is kind


@pytest.mark.parametrize(
    "headers",
    [
        {"transfer-encoding": "gzip, chunked"},
        {"content-length": "-1"},
        {"content-length": "7, 7"},
        {"content-length": "٣"},
    ],
)
def test_bodies_that_cannot_be_read(headers: dict[str, str]):
    with pytest.raises(FramingError):
        body_of(Head(200, Headers(headers), keeps=True))
