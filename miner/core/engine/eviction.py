"""Fair-share eviction: which engines are evicted so that another model can load, and when.

Pure functions over the members' state; `scheduler.py` carries the plans out. A model that waits takes free memory
first, then that of idle engines, the least recently used first, then that of busy ones, the longest time slice first:

- An **idle** engine is evicted after `idle_grace` seconds (a quarter of its load time at most): a client that sends its
  next request when it has read the last response must not pay a reload for each.
- A **busy** engine keeps its time slice: it serves, new requests included, until `fairness_wait` after the other began
  to wait and after its own slice began. Then it drains: no new requests, and eviction when those in flight are done. A
  slice lasts at least twice as long as the engine's load, or slow loads would take most of the time. It is extended
  for requests older than the other's while n x mean / slots of these < 2 x load time + n x mean / slots of the other's
  (n: number of requests; mean: mean duration of one).
- Pinned, loading and stopping engines stay.

Models that wait are ordered by `Member.waiting_since`; an engine that was evicted joins at the end. So time slices go
round-robin, and the oldest request of a model waits at most (competing models) x (slice + longest request + stop +
load). A model that cannot have its memory yet lets later ones use what is free or idle, until it has waited
`fairness_wait`; then only those that fit beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from miner.core.engine.errors import pinned_out, too_big
from miner.core.engine.limits import PoolLimits
from miner.core.engine.member import Member, State
from miner.errors import BackendError


@dataclass(frozen=True, slots=True)
class EvictionPlan:
    """How to free memory for one model."""

    load: bool = False
    """Whether it fits now."""
    victims: Sequence[Member] = ()
    """Engines to evict from loop time `at` on, each when its requests in flight are done."""
    at: float = 0.0
    refusal: BackendError | None = None
    """The error if it never fits, or not beside the pinned engines."""


_STOP_UNDER_WAY = EvictionPlan()
"""An engine that is stopping leaves enough memory."""
_LOAD_UNDER_WAY = EvictionPlan(at=math.inf)
"""Nothing can be evicted before another load is done."""


def plan_eviction(wanted: Member, members: Iterable[Member], limits: PoolLimits) -> EvictionPlan:
    """Which of `members` must be evicted for `wanted`, and when, by the rule in this module's docstring."""
    occupied = [member for member in members if member.state is not State.UNLOADED]
    if fits(wanted, occupied, limits):
        return EvictionPlan(load=True)
    if not fits(wanted, (), limits):
        return EvictionPlan(refusal=too_big(wanted, limits))
    staying = [member for member in occupied if member.state is not State.STOPPING]
    if fits(wanted, staying, limits):
        return _STOP_UNDER_WAY
    victims: list[Member] = []
    for member in sorted(staying, key=_eviction_order):
        if member.state is State.READY and (member.retired or not member.pinned):
            victims.append(member)
            staying.remove(member)
            if fits(wanted, staying, limits):
                break
    else:
        pinned = [member for member in staying if member.pinned and not member.retired]
        return (
            _LOAD_UNDER_WAY
            if fits(wanted, pinned, limits)
            else EvictionPlan(refusal=pinned_out(wanted, pinned, limits))
        )
    for member in victims[:-1]:  # a later, larger one may have made an earlier one unnecessary
        if fits(wanted, [*staying, member], limits):
            victims.remove(member)
            staying.append(member)
    return EvictionPlan(victims=victims, at=max(_evictable_at(victim, wanted, limits) for victim in victims))


def fits(wanted: Member, others: Sequence[Member], limits: PoolLimits) -> bool:
    """Whether `wanted` can be loaded beside `others`."""
    if limits.max_loaded is not None and len(others) + 1 > limits.max_loaded:
        return False
    together = (wanted, *others)
    if limits.memory_budget is not None and sum(member.need for member in together) > limits.memory_budget:
        return False
    booked = [member.gpu_need for member in together]
    return all(
        sum(need[card] for need in booked if card < len(need)) <= budget
        for card, budget in enumerate(limits.gpu_budget)
    )


def _eviction_order(member: Member) -> tuple[bool, float]:
    if member.retired:
        return False, -math.inf
    return (True, member.slice_began or 0.0) if member.busy else (False, member.last_used)


def _evictable_at(victim: Member, wanted: Member, limits: PoolLimits) -> float:
    if victim.retired and not victim.queue:
        return 0.0  # it only finishes what it has in flight
    began, shortest = victim.slice_began or 0.0, max(limits.fairness_wait, 2 * victim.load_seconds)
    slice_ends = max(wanted.waiting_since + limits.fairness_wait, began + shortest)
    if victim.idle_since is None:
        return math.inf if _finishes_first(victim, wanted) else slice_ends
    return min(slice_ends, victim.idle_since + min(limits.idle_grace, victim.load_seconds / 4))


def _finishes_first(victim: Member, wanted: Member) -> bool:
    """Whether serving the victim's older requests takes less time than two loads of it and the other's requests."""
    older = victim.queue.arrived_by(wanted.waiting_since)
    if older == 0 or victim.times.mean is None:
        return False
    mean = wanted.times.mean if wanted.times.mean is not None else victim.times.mean
    others = len(wanted.queue) * mean / wanted.parallel
    return older * victim.times.mean / victim.parallel < 2 * victim.load_seconds + others
