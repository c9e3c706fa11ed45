"""What keeps engines from being loaded together: the planner decides by it, and refusals are worded from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from miner.core.engine.limits import PoolLimits
from miner.core.engine.member import Member
from miner.core.engine.rules import GroupRule


@dataclass(frozen=True, slots=True)
class Conflict:
    """One limit that engines exceed together."""

    kind: Literal["count", "memory", "gpu", "group", "exclusive"]
    members: Sequence[Member]
    """The engines that count for it."""
    limit: int = 0
    """Engines, or bytes."""
    gpu: int = 0
    """The GPU's number."""
    group: GroupRule | None = None


def conflicts(members: Sequence[Member], limits: PoolLimits) -> Iterator[Conflict]:
    """Each limit that these engines would exceed if they were loaded together."""
    if limits.max_loaded is not None and len(members) > limits.max_loaded:
        yield Conflict("count", members, limits.max_loaded)
    if limits.memory_budget is not None and sum(member.booked for member in members) > limits.memory_budget:
        yield Conflict("memory", members, limits.memory_budget)
    needs = [member.gpu_need for member in members]
    for card, budget in enumerate(limits.gpu_budget):
        if sum(need[card] for need in needs if card < len(need)) > budget:
            yield Conflict("gpu", members, budget, gpu=card)
    for group in dict.fromkeys(group for member in members for group in member.rules.groups):
        inside = [member for member in members if group in member.rules.groups]
        if group.max_loaded is not None and len(inside) > group.max_loaded:
            yield Conflict("group", inside, group.max_loaded, group=group)
        if group.exclusive and len(inside) < len(members):
            yield Conflict("exclusive", members, group=group)


def compatible(members: Sequence[Member], limits: PoolLimits) -> bool:
    """Whether these engines may be loaded together."""
    return next(conflicts(members, limits), None) is None


def fits(wanted: Member, others: Sequence[Member], limits: PoolLimits) -> bool:
    """Whether `wanted` may be loaded beside `others`."""
    return compatible((wanted, *others), limits)
