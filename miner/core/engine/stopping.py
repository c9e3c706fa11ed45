"""How an engine of the pool is stopped: put to sleep, or given time to save what its next run needs, then stopped."""

from __future__ import annotations

import asyncio
import logging

from miner.core.engine.limits import PoolLimits
from miner.core.engine.member import Member
from miner.core.engine.sleepers import fall_asleep

logger = logging.getLogger("miner.engine")


async def stop_engine(member: Member, limits: PoolLimits, *, returns: bool) -> None:
    """Stop it; kill it if that fails, takes longer than it may, or is cancelled.

    Args:
        returns: it may be loaded again: it sleeps instead where it can, and prepares its stop else.
    """
    stopped = False
    try:
        if returns and member.unloading is None and (stopped := await fall_asleep(member)):
            return
        if returns:
            await _prepare(member, limits)
        async with asyncio.timeout(max(limits.stop_timeout, member.engine.stop_seconds)):
            await member.engine.stop()
        stopped = True
    finally:
        if not stopped:
            member.engine.kill()


async def _prepare(member: Member, limits: PoolLimits) -> None:
    """Let the engine prepare its stop, for `prepare_timeout` at most, and not while the pool is being closed."""
    member.preparing = preparing = asyncio.ensure_future(member.engine.before_stop())
    try:
        await asyncio.wait([preparing], timeout=limits.prepare_timeout)
        if preparing.done() and not preparing.cancelled() and (error := preparing.exception()) is not None:
            logger.warning("%s: its stop could not be prepared.", member.spec.alias, exc_info=error)
    finally:
        preparing.cancel()
        member.preparing = None
