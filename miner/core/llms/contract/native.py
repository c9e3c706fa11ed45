"""A response in an engine's own form."""

from __future__ import annotations

from msgspec import Struct

from miner.core.wire import LLMChunk


class NativeBatch(Struct, gc=False):
    """A piece of a streamed response in an engine's own form."""

    events: list[bytes]
    """JSON objects, as the engine wrote them."""
    chunk: LLMChunk
    """What they are for limits and metrics: text, progress, usage."""
