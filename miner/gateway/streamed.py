"""The frame of every streamed response: what fails early has a status of its own, what fails late an error event."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from miner.errors import MinerError
from miner.gateway.contained import Contained
from miner.gateway.errors import Failure, failure_of
from miner.gateway.middleware.error_log import log_fault
from miner.gateway.server.shutdown import Interruptible
from miner.gateway.streaming import OpenStream

__all__ = ["streamed"]


async def streamed(
    out: OpenStream, write: Callable[[], Awaitable[bytes]], error_event: Callable[[Failure], bytes]
) -> web.StreamResponse:
    """Let `write` send the stream and return its last bytes.

    Whatever it raises once the head is out ends the body with an error event, and the connection is closed.

    Raises:
        MinerError: it failed before, so there can be a status.
    """
    context = out.context
    if out.has_heartbeat:
        context.gateway.streams.add(out)
    try:
        with Contained(), Interruptible(context):
            last = await write()
    except MinerError as error:
        context.gateway.streams.discard(out)
        if out.response is None:
            raise
        context.error, failure = error, failure_of(error, context.id)
        log_fault(context, failure, error, "broke off in the middle of its stream")
        return await out.end(error_event(failure), broken=True)
    finally:
        context.gateway.streams.discard(out)
    return await out.end(last)
