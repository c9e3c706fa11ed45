"""Ollama's answers as they are read: lines as chunks, whole answers as values; whether what ended is a reply."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

from miner.core.http.client import ByteStream, HttpResponse
from miner.core.http.errors import Upstream, parse_error_body
from miner.core.http.framing import NDJSONDecoder
from miner.core.http.transport_errors import FramingError
from miner.core.llms.contract.stream import Batches
from miner.core.llms.ollama.errors import error_in_answer, ollama_error
from miner.core.llms.ollama.wire import LineMapper, decode_line
from miner.core.wire import ChatRequest, LLMChunk
from miner.errors import BackendProtocolError, MinerError, StreamInterruptedError

__all__ = ["check_end", "decoded", "read_lines"]

T = TypeVar("T")


async def read_lines(answer: ByteStream, request: ChatRequest, upstream: Upstream) -> Batches:
    """The chunks of the lines, in the batches in which they arrived."""
    mapper = LineMapper(request)
    frames = NDJSONDecoder()
    stopped = False
    while not mapper.finished:
        piece = await answer.read_some()
        batch: list[LLMChunk] = []
        try:
            for raw in frames.feed(piece) if piece else frames.flush():
                line = decode_line(raw)
                if line.error is not None:
                    raise error_in_answer(parse_error_body(raw), upstream, begun=mapper.delivered)
                if stopped := mapper.feed(line, batch):
                    break
        except (MinerError, msgspec.DecodeError, RecursionError) as error:
            mapper.flush(batch)
            if batch:
                yield batch  # what came before the fault is delivered before it
            if not piece and isinstance(error, msgspec.DecodeError) and raw.startswith(b"{"):
                break  # a truncated tail is a broken stream, not a garbled one
            if isinstance(error, RecursionError):
                raise FramingError("JSON that is nested without end") from error
            raise
        if not piece:
            mapper.flush(batch)
            if not mapper.finished and mapper.given_up():
                mapper.finished = True
                batch.append(LLMChunk(finish_reason="repetition"))
        if batch:
            yield batch
        if not piece:
            break
    answer.message_complete = mapper.finished and not stopped
    check_end(mapper, upstream)


def check_end(mapper: LineMapper, upstream: Upstream) -> None:
    """Make sure that the reply that just ended is one."""
    if mapper.finished and mapper.lost is None:
        return
    where = f"ollama at {upstream.shown_url}"
    if not mapper.finished:
        raise StreamInterruptedError(
            f"{where} closed the stream before it was complete.",
            hint="What had arrived is in the error's `partial`; Ollama's log says why it stopped.",
            **upstream.details(200),
        )
    if mapper.lost is not None:
        raise BackendProtocolError(
            f"{where} lost its reply: {mapper.lost}.", hint="Raise max_tokens, or leave tools out.",
            **upstream.details(200),
        )  # fmt: skip


def decoded(reply: HttpResponse, upstream: Upstream, decode: Callable[[bytes], T], model: str | None = None) -> T:
    """A whole answer, read by `decode`.

    Args:
        model: the one that was asked for, if any.

    Raises:
        MinerError: it is no success, or nothing that `decode` can read.
    """
    if reply.status != 200:
        raise ollama_error(
            reply.status, parse_error_body(reply.body), upstream, model, reply.headers.get("Retry-After")
        )
    try:
        return decode(reply.body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise upstream.protocol_error(f"sent an invalid response: {error}.", status=200) from error
