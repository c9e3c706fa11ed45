"""Several streams of one response as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeVar

from miner.errors import MinerError
from miner.gateway.errors import ErrorBoundary

B = TypeVar("B")


async def merged(streams: Sequence[AsyncGenerator[B, None]]) -> AsyncGenerator[tuple[int, B], None]:
    """Batches of all streams as they come, each with the index of its stream. The first failure ends them all."""
    arrived: asyncio.Queue[tuple[int, B | MinerError | None]] = asyncio.Queue(len(streams))

    async def read(index: int, stream: AsyncGenerator[B, None]) -> None:
        try:
            with ErrorBoundary():
                async with aclosing(stream) as batches:
                    async for batch in batches:
                        await arrived.put((index, batch))
        except MinerError as error:
            await arrived.put((index, error))
        else:
            await arrived.put((index, None))

    readers = [asyncio.create_task(read(index, stream)) for index, stream in enumerate(streams)]
    unfinished = len(readers)
    try:
        while unfinished:
            index, item = await arrived.get()
            if item is None:
                unfinished -= 1
            elif isinstance(item, MinerError):
                raise item
            else:
                yield index, item
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
