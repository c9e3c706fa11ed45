"""Several replies at once: their batches as they come, and their usage together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing

from miner.core.llms.contract.stream import LLMStream
from miner.core.wire import LLMChunk, TokenUsage
from miner.errors import MinerError
from miner.gateway.contained import Contained

__all__ = ["added", "merged", "total_usage"]


async def merged(streams: Sequence[LLMStream]) -> AsyncGenerator[tuple[int, list[LLMChunk]], None]:
    """Pairs of a stream's place and a batch of it. The first failure ends them all, whatever it is."""
    arrived: asyncio.Queue[tuple[int, list[LLMChunk] | MinerError | None]] = asyncio.Queue(len(streams))

    async def read(index: int, stream: LLMStream) -> None:
        try:
            with Contained():
                async with aclosing(stream.batches()) as batches:
                    async for batch in batches:
                        await arrived.put((index, batch))
        except MinerError as error:
            await arrived.put((index, error))
        else:
            await arrived.put((index, None))

    readers = [asyncio.create_task(read(index, stream)) for index, stream in enumerate(streams)]
    open_streams = len(readers)
    try:
        while open_streams:
            index, item = await arrived.get()
            if item is None:
                open_streams -= 1
            elif isinstance(item, MinerError):
                raise item
            else:
                yield index, item
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)


def added(one: TokenUsage | None, other: TokenUsage) -> TokenUsage:
    """Both together."""
    if one is None:
        return other
    return TokenUsage(
        one.prompt_tokens + other.prompt_tokens,
        one.completion_tokens + other.completion_tokens,
        one.total_tokens + other.total_tokens,
        _both(one.cached_tokens, other.cached_tokens),
        _both(one.reasoning_tokens, other.reasoning_tokens),
    )


def _both(one: int | None, other: int | None) -> int | None:
    return None if one is None and other is None else (one or 0) + (other or 0)


def total_usage(usages: Iterable[TokenUsage | None]) -> TokenUsage | None:
    """All that are known together: what the engine worked; None where none is."""
    total: TokenUsage | None = None
    for usage in usages:
        if usage is not None:
            total = added(total, usage)
    return total
