"""Responses of HTTP/1.1, however they are cut."""

from __future__ import annotations

import gc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miner.core.http.http1 import MAX_OVERHEAD_BYTES, ResponseHead, ResponseParser
from miner.core.http.transport_errors import FramingError, ServerDisconnectedError

TOKEN = b'data: {"choices":[{"delta":{"content":" is"}}]}\n\n'
TRICKY = b"\r\n5\r\nhello\r\n0\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + end


def read(*pieces: bytes) -> tuple[bytes, ResponseParser]:
    response = ResponseParser()
    return b"".join([response.feed(piece) for piece in pieces]), response


def byte_by_byte(wire: bytes) -> list[bytes]:
    return [wire[at : at + 1] for at in range(len(wire))]


CHUNKS = st.lists(st.one_of(st.binary(min_size=1, max_size=40), st.just(TOKEN), st.just(TRICKY)), max_size=12)


@given(
    CHUNKS,
    st.lists(st.integers(0, 600), max_size=12),
    st.sampled_from([b"0\r\n\r\n", b"0\r\nx-sum: 1\r\n\r\n", b"00;a=b\r\n\r\n"]),
)
def test_chunks_come_out_as_they_went_in_however_they_are_cut(chunks: list[bytes], cuts: list[int], end: bytes):
    wire = CHUNKED + chunked(*chunks, end=end)
    places = [0, *sorted(cut for cut in cuts if cut < len(wire)), len(wire)]
    content, response = read(*(wire[a:b] for a, b in pairwise(places) if a < b))
    assert content == b"".join(chunks)
    assert response.complete
    assert not response.surplus


def test_chunks_cut_at_every_byte():
    chunks = [TOKEN, TRICKY, b"x", b"\r\n", TOKEN]
    wire = CHUNKED + chunked(*chunks)
    for cut in range(1, len(wire)):
        content, response = read(wire[:cut], wire[cut:])
        assert (content, response.complete) == (b"".join(chunks), True)
    content, response = read(*byte_by_byte(wire))
    assert (content, response.complete) == (b"".join(chunks), True)


def test_the_chunks_of_one_read_are_one_piece():
    response = ResponseParser()
    assert response.feed(CHUNKED + chunked(TOKEN, TOKEN, end=b"")) == TOKEN * 2
    assert response.feed(chunked(TOKEN, TOKEN, TOKEN)) == TOKEN * 3


@pytest.mark.parametrize(
    "behind", [b"HTTP/1.1 200 OK", b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx", b"garbage", b"\0"]
)
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("body", [CHUNKED + chunked(TOKEN), OK + b"content-length: %d\r\n\r\n%b" % (len(TOKEN), TOKEN)])
def test_what_comes_behind_the_end_is_not_content(body: bytes, apart: bool, behind: bytes):
    content, response = read(body, behind) if apart else read(body + behind)
    assert (content, response.complete, response.surplus) == (TOKEN, True, True)
    assert response.head is not None
    assert response.head.status == 200


@pytest.mark.parametrize(
    "wire",
    [
        b"zz\r\nhello\r\n", b"-5\r\nhello\r\n", b"0x5\r\nhello\r\n", b"\r\n5\r\nhello\r\n", b"5\r\nhello!\r\n",
        b"5\r\nhell\r\n0\r\n\r\n", b"5 5\r\nhello\r\n", b"f" * 17 + b"\r\n", b"5" * 5000, b"5\nhello\n",
        chunked(TOKEN, TOKEN, end=b"5\r\nhello!!"), chunked(TOKEN, end=b"4\r\nhello\r\n5\r\nhello\r\n0\r\n\r\n"),
        b"5;" + b"x" * 2 * MAX_OVERHEAD_BYTES, b"0\r\n" + b"a: b\r\n" * MAX_OVERHEAD_BYTES,
    ],
)  # fmt: skip
def test_what_is_no_chunk_is_garbage(wire: bytes):
    for pieces in ([wire], byte_by_byte(wire)):
        response = ResponseParser()
        response.feed(CHUNKED)
        with pytest.raises((FramingError, ServerDisconnectedError)):  # noqa: PT012
            for piece in pieces:
                response.feed(piece)
            response.feed(b"")
            response.feed_eof()


def test_content_before_an_error_is_delivered():
    response = ResponseParser()
    assert response.feed(CHUNKED + chunked(TOKEN, end=b"zz\r\n")) == TOKEN
    assert response.error is not None
    with pytest.raises(FramingError, match="invalid response body: invalid character in chunk size"):
        response.feed(b"more")


def test_an_end_before_the_end():
    for wire in (
        CHUNKED + chunked(TOKEN, end=b""), CHUNKED, CHUNKED + b"5\r\nhel",
        OK + b"content-length: 5\r\n\r\nhell", OK, b"", b"HTTP/1.1 100 Continue\r\n\r\n",
    ):  # fmt: skip
        _, response = read(wire)
        with pytest.raises(ServerDisconnectedError):
            response.feed_eof()
    content, response = read(OK + b"\r\nhel", b"lo")
    assert (content, response.complete) == (b"hello", False)
    response.feed_eof()
    assert response.complete


def test_a_body_of_known_length():
    response = ResponseParser()
    assert (response.feed(OK + b"content-length: 5\r\n\r\n"), response.complete) == (b"", False)
    assert (response.feed(b"hel"), response.complete) == (b"hel", False)
    assert (response.feed(b"lo!"), response.complete, response.surplus) == (b"lo", True, True)
    assert read(OK + b"content-length: 0\r\n\r\n")[1].complete


def head(*lines: str) -> ResponseHead:
    response = ResponseParser()
    response.feed("\r\n".join([*lines, "", ""]).encode("latin-1"))
    assert response.head is not None
    return response.head


def test_heads():
    told = head("HTTP/1.1 200 OK", "Content-Type: text/event-stream", "X-A:  1 ", "x-a: 2", "Empty:", "Umlaut: \xfc")
    assert (told.status, told.keep_alive) == (200, True)
    assert told.headers["content-type"] == told.headers.get("CONTENT-TYPE") == "text/event-stream"
    assert (told.headers["X-A"], told.headers["empty"], "X-a" in told.headers, "b" in told.headers) == (
        "1, 2",
        "",
        True,
        False,
    )
    assert told.headers["umlaut"] == "\xfc"
    assert not head("HTTP/1.1 200 OK", "Connection: Close").keep_alive
    assert not head("HTTP/1.0 200 OK").keep_alive
    assert head("HTTP/1.1 429").status == 429


def test_a_head_cut_at_every_byte():
    wire = OK + b"X-Name:  some value \r\nConnection: keep-alive\r\ncontent-length: 2\r\n\r\nok"
    content, response = read(*byte_by_byte(wire))
    assert (content, response.complete) == (b"ok", True)
    assert response.head is not None
    assert response.head.headers == {"x-name": "some value", "connection": "keep-alive", "content-length": "2"}


@pytest.mark.parametrize("interim", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"])
def test_interim_responses_are_passed_over(interim: bytes):
    for pieces in ([interim * 2 + CHUNKED + chunked(TOKEN)], byte_by_byte(interim + CHUNKED + chunked(TOKEN))):
        content, response = read(*pieces)
        assert (content, response.complete, response.surplus) == (TOKEN, True, False)
        assert response.head is not None
        assert (response.head.status, "link" in response.head.headers) == (200, False)


@pytest.mark.parametrize(
    "wire",
    [
        b"HTTP/2 200 OK\r\n\r\n", b"HTTP/2.0 200 OK\r\n\r\n", b"HTTP/0.9 200 OK\r\n\r\n", b"HTTP/1.1 99 No\r\n\r\n",
        b"HTTP/1.1 099 No\r\n\r\n", b"HTTP/1.1 2000 No\r\n\r\n", b"HTTP/1.1 999 No\r\n\r\n", b"hello\r\n\r\n",
        OK + b"no colon\r\n\r\n", OK + b": no name\r\n\r\n", OK + b"name : value\r\n\r\n", OK + b"a: b\nc: d\r\n\r\n",
        OK + b" folded: x\r\n\r\n", b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\n\r\n", b"\x16\x03\x01\x02",
        OK + b"x: " + b"y" * MAX_OVERHEAD_BYTES, OK + b"x: y\r\n" * MAX_OVERHEAD_BYTES,
        b"HTTP/1.1 100 Continue\r\n\r\n" * MAX_OVERHEAD_BYTES,
        OK + b"transfer-encoding: gzip, chunked\r\n\r\n", OK + b"transfer-encoding: gzip\r\n\r\n",
        OK + b"content-length: -1\r\n\r\n", OK + b"content-length: 7, 7\r\n\r\n",
        OK + b"content-length: 1\r\ncontent-length: 2\r\n\r\n",
        OK + "content-length: ٣\r\n\r\n".encode(), OK + b"content-length: " + b"9" * 30 + b"\r\n\r\n",
    ],
    ids=lambda wire: repr(wire[:60]),
)  # fmt: skip
def test_what_is_no_response(wire: bytes):
    for pieces in ([wire], [wire[at : at + 1000] for at in range(0, len(wire), 1000)], byte_by_byte(wire)):
        with pytest.raises(FramingError):
            read(*pieces)


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("lines", [b"", b"content-length: 7\r\n", b"transfer-encoding: chunked\r\n"])
def test_responses_without_a_body(status: int, lines: bytes):
    _, response = read(b"HTTP/1.1 %d No\r\n%b\r\n" % (status, lines))
    assert response.complete


@pytest.mark.parametrize(
    "lines", [b"transfer-encoding: Chunked\r\ncontent-length: 7\r\n", b"Transfer-Encoding: chunked\r\n"]
)
def test_chunks_go_before_a_length(lines: bytes):
    content, response = read(OK + lines + b"\r\n" + b"5 \r\nhello\r\n0\r\n\r\n")
    assert (content, response.complete, response.surplus) == (b"hello", True, False)


def test_a_response_that_is_over_leaves_nothing_for_the_garbage_collector():
    gc.collect()
    gc.disable()
    try:
        before = len(gc.get_objects())
        for _ in range(200):
            read(CHUNKED + chunked(TOKEN))
        assert len(gc.get_objects()) - before < 100
    finally:
        gc.enable()
