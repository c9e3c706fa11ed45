"""Watching a running gateway: its events, over restarts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING

from miner.errors import BackendError, MinerError

if TYPE_CHECKING:
    from miner.cli.gateway_client import GatewayClient, ServerEvent

_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 5.0


async def watch(
    client: GatewayClient,
    path_after: Callable[[int | None], str],
    *,
    model: str | None = None,
    on_lost: Callable[[MinerError | None], None],
    on_back: Callable[[], None],
) -> AsyncGenerator[ServerEvent, None]:
    """Yield the events of a path; when the gateway ends them, or the connection is lost, connect again, forever.

    Args:
        path_after: the path that continues after the event with this number; None: from the beginning.
        model: of the path.
        on_lost: called when the connection is lost, with the error; None: the gateway has ended the stream.
        on_back: called when there is a connection again.

    Raises:
        MinerError: there was no first connection, or the gateway refuses the request.
    """
    seen: int | None = None
    connected, lost, pause = False, False, _FIRST_PAUSE
    while True:
        error: MinerError | None = None
        try:
            async with aclosing(client.events(path_after(seen), model=model)) as events:
                async for event in events:
                    if lost:
                        on_back()
                    connected, lost, pause = True, False, _FIRST_PAUSE
                    if event.kind == "error":
                        continue  # the end of the stream says the same
                    seen = event.number if event.number is not None else seen
                    yield event
        except BackendError as failure:
            error = failure
        if error is not None and not connected:
            raise error
        if not lost:
            on_lost(error)
        connected, lost = True, True
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
