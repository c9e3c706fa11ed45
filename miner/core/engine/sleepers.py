"""Engines that sleep: their process holds main memory, no GPU memory, and no place among those that are loaded.

To the planner a sleeping engine is unloaded; what it holds is taken from the budget. Where that is in the way of
another engine, the one that was used least recently is stopped.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import replace

from miner.core.engine.eviction import EvictionPlan, plan_eviction
from miner.core.engine.limits import PoolLimits
from miner.core.engine.member import Member
from miner.errors import EngineStartError

logger = logging.getLogger("miner.engine")


async def fall_asleep(member: Member) -> bool:
    """Let an engine sleep; False: it cannot, or does not."""
    if not member.engine.can_sleep:
        return False
    try:
        await member.engine.sleep()
    except EngineStartError as error:
        logger.warning("%s is stopped, since it does not sleep: %s", member.spec.alias, error)
        return False
    return True


def plan_beside_sleepers(
    wanted: Member, members: Collection[Member], limits: PoolLimits, most: PoolLimits
) -> tuple[EvictionPlan, Member | None]:
    """The plan for `wanted`, and the sleeping engine to stop first, if one is in its way.

    Args:
        most: the limits as if no other program took memory.
    """
    sleepers = [member for member in members if member.asleep and member is not wanted]
    if not sleepers or limits.memory_budget is None:
        return plan_eviction(wanted, members, limits, most), None
    held = sum(member.engine.memory or 0 for member in sleepers)
    plan = plan_eviction(wanted, members, replace(limits, memory_budget=max(1, limits.memory_budget - held)), most)
    if plan.load or plan == EvictionPlan():  # a stop is under way that leaves enough
        return plan, None
    without = plan_eviction(wanted, members, limits, most)
    helps = without.load or len(without.victims) < len(plan.victims)
    if helps or (plan.refusal is not None and without.refusal is None):
        return without, min(sleepers, key=lambda member: member.last_used)
    return plan, None
