"""Framing: whatever the pieces, the same messages come out."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miner.core.http import framing
from miner.core.http.framing import MAX_MESSAGE_BYTES, NDJSONDecoder, SSEDecoder
from miner.core.http.transport_errors import FramingError
from tests.servers.captures import ENGINES, Capture, captures

Decoder = SSEDecoder | NDJSONDecoder


def is_sse(item: Capture) -> bool:
    return item.headers.get("content-type", "").startswith("text/event-stream")


def is_ndjson(item: Capture) -> bool:
    return item.headers.get("content-type", "").startswith("application/x-ndjson")


RECORDED = [item for engine in ENGINES for item in captures(engine).values() if is_sse(item) or is_ndjson(item)]
IDS = [f"{item.engine}-{item.name}" for item in RECORDED]


def decoder(item: Capture) -> Decoder:
    return SSEDecoder() if is_sse(item) else NDJSONDecoder()


def fed(decoder: Decoder, pieces: Iterable[bytes]) -> list[bytes]:
    payloads = []
    for piece in pieces:
        payloads += decoder.feed(piece)
    return payloads + decoder.flush()


def expected(item: Capture) -> list[bytes]:
    """What is in the recording, read the naive way."""
    lines = [line for line in item.body.split(b"\n") if line]
    return [line[len(b"data: ") :] for line in lines if line != b":"] if is_sse(item) else lines


def cut(body: bytes, places: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(places), len(body)]
    return [body[start:end] for start, end in itertools.pairwise(edges)]


def test_there_are_recordings_of_both_kinds_from_all_engines():
    assert {item.engine for item in RECORDED if is_sse(item)} == {"llamacpp", "vllm", "ollama"}
    assert len([item for item in RECORDED if is_ndjson(item)]) >= 15


@pytest.mark.parametrize("item", RECORDED, ids=IDS)
def test_recorded_streams_as_they_came_and_byte_by_byte(item: Capture):
    body = item.body
    assert fed(decoder(item), item.pieces) == expected(item)
    assert fed(decoder(item), [body]) == expected(item)
    assert fed(decoder(item), (body[at : at + 1] for at in range(len(body)))) == expected(item)


@pytest.mark.parametrize("item", RECORDED, ids=IDS)
def test_recorded_streams_cut_in_two_at_every_byte_boundary(item: Capture):
    # The first events and the last ones: between them nothing new can happen, and long streams would take minutes.
    whole = item.body
    body = whole if len(whole) <= 5000 else whole[:2500] + whole[-2500:]
    once = fed_or_none(item, [body])
    for at in range(len(body) + 1):
        assert fed_or_none(item, [body[:at], body[at:]]) == once, at


def fed_or_none(item: Capture, pieces: list[bytes]) -> list[bytes] | None:
    """The payloads; None where the two halves put together are no stream."""
    try:
        return fed(decoder(item), pieces)
    except FramingError:
        return None


@settings(max_examples=150)
@given(data=st.data(), item=st.sampled_from(RECORDED))
def test_recorded_streams_cut_at_random(data: st.DataObject, item: Capture):
    places = data.draw(st.lists(st.integers(0, len(item.body)), max_size=40))
    assert fed(decoder(item), cut(item.body, places)) == expected(item)


TEXTS = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), min_size=1).map(str.encode)


@settings(max_examples=200)
@given(
    data=st.data(),
    messages=st.lists(TEXTS, max_size=6),
    end=st.sampled_from([b"\n", b"\r\n", b"\r"]),
    head=st.sampled_from([b"data: ", b"data:", b": ping\ndata: ", b"event: x\nid: 7\ndata: ", b": a\n\n: b\n\ndata: "]),
    closed=st.booleans(),
)
def test_events_in_every_spelling_and_chunking(
    data: st.DataObject, messages: list[bytes], end: bytes, head: bytes, closed: bool
):
    """Comments, `data:` with and without a space; and the line ends that the standard allows."""
    messages = [message for message in messages if not (head.endswith(b":") and message.startswith(b" "))]
    body = b"".join(head + message + b"\n\n" for message in messages)
    if not closed:
        body = body.removesuffix(b"\n").removesuffix(b"\n")
    body = body.replace(b"\n", end)
    pieces = cut(body, data.draw(st.lists(st.integers(0, len(body)), max_size=12)))
    assert fed(SSEDecoder(), pieces) == messages


@settings(max_examples=150)
@given(data=st.data(), lines=st.lists(TEXTS.filter(lambda text: bool(text.strip())), max_size=6), closed=st.booleans())
def test_lines_in_every_chunking_with_blank_lines_between(data: st.DataObject, lines: list[bytes], closed: bool):
    """Buffer to the newline, flush the tail, split no character."""
    body = b"\n\n \n".join(lines) + (b"\n" if closed and lines else b"")
    pieces = cut(body, data.draw(st.lists(st.integers(0, len(body)), max_size=12)))
    assert fed(NDJSONDecoder(), pieces) == lines


def test_an_event_of_several_lines_is_joined():
    assert fed(SSEDecoder(), [b"data: a\ndata: b\n\n"]) == [b"a\nb"]


def test_an_event_of_several_lines_is_joined_wherever_its_line_ends_are_cut():
    body = b"data: a\r\ndata: b\r\n\r\ndata: c\rdata: d\r\r"
    for at in range(len(body) + 1):
        assert fed(SSEDecoder(), [body[:at], body[at:]]) == [b"a\nb", b"c\nd"], at


def test_keep_alive_comments_alone_are_no_message():
    decoder = SSEDecoder()
    assert decoder.feed(b": keep-alive\n\n:\n\n: keep-alive\n\n") == []
    assert decoder.feed(b"data: {}\n\n") == [b"{}"]


def test_a_page_is_no_event_stream():
    with pytest.raises(FramingError, match="not a server-sent event: b'<html>'"):
        SSEDecoder().feed(b"<html>\n\n")
    decoder = SSEDecoder()
    decoder.feed(b"<html>")
    with pytest.raises(FramingError):
        decoder.flush()


def test_events_before_an_error_are_delivered_however_they_are_split():
    for pieces in ([b"data: 1\n\n<html>\n\n", b"x"], [b"data: 1\n\n", b"<html>\n\n"], [b"data: 1\n\n<html>\n\n"]):
        decoder = SSEDecoder()
        got = decoder.feed(pieces[0])
        with pytest.raises(FramingError, match="<html>"):
            decoder.feed(pieces[1]) if len(pieces) > 1 else decoder.flush()
        assert got == [b"1"]


@pytest.mark.parametrize("tail", [b"d", b"dat", b"data", b"data:", b"data: ", b":", b"\n"])
def test_a_stream_that_is_cut_before_its_next_event_has_begun_is_no_garbage(tail: bytes):
    payloads = fed(SSEDecoder(), [b"data: 1\n\n" + tail])
    assert payloads[0] == b"1"
    assert payloads[1:] in ([], [b""])


@pytest.mark.parametrize("kind", [SSEDecoder, NDJSONDecoder])
def test_a_message_without_an_end_is_refused_before_it_fills_memory(kind: type[Decoder]):
    decoder, piece = kind(), b"x" * (1 << 20)
    for _ in range(MAX_MESSAGE_BYTES // len(piece)):
        assert decoder.feed(piece) == []
    with pytest.raises(FramingError, match=f"longer than {MAX_MESSAGE_BYTES} bytes"):
        decoder.feed(piece)


@pytest.mark.parametrize("kind", [SSEDecoder, NDJSONDecoder])
def test_the_bound_counts_one_message_not_the_stream(kind: type[Decoder], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(framing, "MAX_MESSAGE_BYTES", 100)
    decoder = kind()
    message = b"data: " + b"x" * 70 + b"\n\n"
    for _ in range(50):
        assert len(decoder.feed(message[:40]) + decoder.feed(message[40:])) == 1
