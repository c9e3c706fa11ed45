"""Reading a streamed reply: the engine's events become chunks, in the batches in which they arrive.

The OpenAI wire (openai/response.py) and Ollama's (ollama/response.py) hand in their framing, their events and the
mapping of these; the rest is here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import msgspec

from miner.core.http.client import ByteStream
from miner.core.http.errors import Upstream
from miner.core.http.framing import NDJSONDecoder, SSEDecoder
from miner.core.http.transport_errors import FramingError
from miner.core.llms.contract.stop_strings import StopWatcher
from miner.core.llms.contract.stream import Batches
from miner.core.wire import LLMChunk
from miner.errors import MinerError


class EngineEvent(Protocol):
    """One decoded event of a stream."""

    error: Any
    """The engine's error object; None in every other event."""


E = TypeVar("E", bound=EngineEvent)


class ReplyMapper(Generic[E]):
    """Maps the events of one reply to chunks.

    Args:
        stops: stop strings that are watched for here, because the engine does not get them (see stop_strings.py).
    """

    __slots__ = ("_watcher", "delivered", "ended", "lost", "stopped")

    sentinel: ClassVar[bytes] = b""
    """Payload of the event that ends a stream; empty if there is none."""
    first_byte: ClassVar[bytes] = b""
    """First byte of every event: an undecodable last event that starts otherwise is not a truncated one."""

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._watcher = StopWatcher(stops) if stops else None
        self.ended = False
        """No further event belongs to the reply: the last one was received, or a watched stop string."""
        self.stopped = False
        """A watched stop string ended the reply: the engine still generates."""
        self.delivered = False
        """Any text, reasoning or tool call was received."""
        self.lost: str | None = None
        """The problem of a reply that has ended; None if it is complete."""

    def chunk(self, event: E, /) -> LLMChunk | None:
        """Return the chunk for an event; None for one that holds nothing."""
        raise NotImplementedError

    def stop_chunk(self, matched: str | None) -> LLMChunk:
        """Return the last chunk of a reply that a watched stop string ended."""
        raise NotImplementedError

    def check_complete(self, upstream: Upstream) -> None:
        """Raise the error of a reply that has ended and is not complete."""
        raise NotImplementedError

    def feed(self, event: E, out: list[LLMChunk]) -> bool:
        """Append the chunks for an event; return whether a watched stop string ended the reply."""
        chunk = self.chunk(event)
        if chunk is None:
            return False
        watcher = self._watcher
        if watcher is None:
            out.append(chunk)
            return False
        if not watcher.feed(chunk, out):
            return False
        stop = self.stop_chunk(watcher.matched)
        stop.prompt_usage = chunk.prompt_usage
        out.append(stop)
        self.ended = self.stopped = True
        return True

    def flush(self, out: list[LLMChunk]) -> None:
        """Append the text that the stop watcher holds back."""
        if self._watcher is not None:
            self._watcher.flush(out)

    def finish(self, out: list[LLMChunk]) -> None:
        """Append what is left when the stream has ended."""
        self.flush(out)


async def read_chunks(
    stream: ByteStream,
    frames: SSEDecoder | NDJSONDecoder,
    decode: Callable[[bytes], E],
    mapper: ReplyMapper[E],
    error_of: Callable[[bytes, bool], MinerError],
    upstream: Upstream,
) -> Batches:
    """Yield the chunks of a reply. Those received before an error are yielded before it is raised.

    Args:
        error_of: makes the error for an error event, from its payload and from whether anything was delivered before.
    """
    feed, sentinel = mapper.feed, mapper.sentinel
    while not mapper.ended:
        data = await stream.read_some()
        batch: list[LLMChunk] = []
        try:
            for payload in frames.feed(data) if data else frames.flush():
                if payload == sentinel:
                    mapper.ended = True
                    break
                event = decode(payload)
                if event.error is not None:
                    raise error_of(payload, mapper.delivered)
                if feed(event, batch):
                    break
        except (MinerError, msgspec.DecodeError, RecursionError) as error:
            mapper.flush(batch)
            if batch:
                yield batch
            if not data and isinstance(error, msgspec.DecodeError) and payload.startswith(mapper.first_byte):
                break  # a truncated last event: the stream was cut
            if isinstance(error, RecursionError):
                raise FramingError("JSON is nested too deeply") from error
            raise
        if not data or mapper.ended:
            mapper.finish(batch)
        if batch:
            yield batch
        if not data:
            break
    stream.message_complete = mapper.ended and not mapper.stopped
    mapper.check_complete(upstream)
