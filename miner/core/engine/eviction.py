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
- An engine of higher **priority** is not evicted while it has requests, nor for `idle_grace` after the last; one of
  lower priority keeps of its slice only twice what its load took.
- Pinned, loading and stopping engines stay; but a load that nobody has waited for in `fairness_wait` is ended.

What engines may be loaded together is in `conflicts.py`: memory, GPUs, number, groups. Only those are evicted that are
in the way.

Models that wait are ordered by priority, then by `Member.waiting_since`; an engine that was evicted joins at the end.
So time slices go round-robin within a priority, and the oldest request of a model waits at most (competing models) x
(slice + longest request + stop + load). A model that cannot have its memory yet lets later ones use what is free or
idle, until it has waited `fairness_wait`; then only those that fit beside it. Those of lower priority may at once only
load beside it, unless it waits for an engine of higher priority, which may take for ever.

An engine whose memory is **unknown** (a command that has not run here yet) is loaded when nothing else loads, and gets
what idle engines take; from then on it counts for what it was seen to take.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from miner.core.engine.conflicts import compatible, fits
from miner.core.engine.errors import crowded_out, pinned_out, too_big
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
    behind: Sequence[Member] = ()
    """Busy engines of higher priority that it waits for."""
    refusal: BackendError | None = None
    """The error if it never fits, or not beside the pinned engines or other programs."""
    crowded: bool = False
    """Whether only other programs keep it out."""


_STOP_UNDER_WAY = EvictionPlan()
"""An engine that is stopping leaves enough memory."""
_LOAD_UNDER_WAY = EvictionPlan(at=math.inf)
"""Nothing can be evicted before another load is done."""


def plan_eviction(
    wanted: Member, members: Iterable[Member], limits: PoolLimits, most: PoolLimits | None = None
) -> EvictionPlan:
    """Which of `members` must be evicted for `wanted`, and when, by the rule in this module's docstring.

    Args:
        limits: with the memory that there is now.
        most: with all that there would be without other programs.
    """
    if not fits(wanted, (), limits):
        crowded = most is not None and fits(wanted, (), most)
        return EvictionPlan(refusal=(crowded_out if crowded else too_big)(wanted, limits), crowded=crowded)
    occupied = [member for member in members if member.state is not State.UNLOADED]
    if limits.memory_budget is None and not limits.gpu_budget:
        return _plan(wanted, occupied, limits)
    if any(member.state is State.LOADING and not member.memory_known for member in occupied):
        return _LOAD_UNDER_WAY
    return (_plan if wanted.memory_known else _plan_unknown)(wanted, occupied, limits)


def _plan(wanted: Member, occupied: Sequence[Member], limits: PoolLimits) -> EvictionPlan:
    if fits(wanted, occupied, limits):
        return EvictionPlan(load=True)
    staying = [member for member in occupied if member.state is not State.STOPPING]
    if fits(wanted, staying, limits):
        return _STOP_UNDER_WAY
    victims: list[Member] = []
    for member in sorted(staying, key=_eviction_order):
        if _evictable(member, wanted):
            victims.append(member)
            staying.remove(member)
            if fits(wanted, staying, limits):
                break
    else:
        return _blocked(wanted, staying, limits)
    for member in victims[:-1]:  # a later one may have made an earlier one unnecessary
        if fits(wanted, [*staying, member], limits):
            victims.remove(member)
            staying.append(member)
    return EvictionPlan(victims=victims, at=max(_evictable_at(victim, wanted, limits) for victim in victims))


def _blocked(wanted: Member, staying: Sequence[Member], limits: PoolLimits) -> EvictionPlan:
    """The plan where those that may not be evicted leave no room."""
    pinned = [member for member in staying if member.pinned and not member.retired]
    if not fits(wanted, pinned, limits):
        return EvictionPlan(refusal=pinned_out(wanted, pinned, limits))
    return EvictionPlan(at=math.inf, behind=[member for member in staying if _is_above(member, wanted)])


def _plan_unknown(wanted: Member, occupied: Sequence[Member], limits: PoolLimits) -> EvictionPlan:
    """The plan for an engine that may take any amount of memory."""
    plan = _plan(wanted, occupied, limits)  # as if it took none
    if plan.refusal is not None or plan.behind:
        return plan
    if any(member.state in (State.LOADING, State.STOPPING) for member in occupied):
        return _LOAD_UNDER_WAY
    idle = [member for member in occupied if member.idle_since is not None and _evictable(member, wanted)]
    victims = [*plan.victims, *(member for member in idle if member not in plan.victims)]
    if not victims:
        return plan
    return EvictionPlan(victims=victims, at=max(_evictable_at(victim, wanted, limits) for victim in victims))


def surplus(members: Iterable[Member], limits: PoolLimits) -> Sequence[Member]:
    """The engines to evict since those that are loaded exceed the limits, which were lowered or turned out to be: the
    idle ones first. Empty if nothing helps.
    """
    staying = [member for member in members if member.state in (State.LOADING, State.READY)]
    if compatible(staying, limits):
        return ()
    victims: list[Member] = []
    for member in sorted(staying, key=_eviction_order):
        if member.state is State.READY and (member.retired or not member.pinned) and len(staying) > 1:
            victims.append(member)
            staying.remove(member)
            if compatible(staying, limits):
                break
    for member in victims[:-1]:
        if compatible([*staying, member], limits):
            victims.remove(member)
            staying.append(member)
    return victims


def _evictable(member: Member, wanted: Member) -> bool:
    if member.state is not State.READY:
        return False
    return member.retired or not (member.pinned or _is_above(member, wanted))


def _is_above(member: Member, wanted: Member) -> bool:
    """Whether it has requests that come before the other's."""
    return member.priority > wanted.priority and member.busy and member.state in (State.LOADING, State.READY)


def _eviction_order(member: Member) -> tuple[bool, int, float]:
    if member.retired:
        return False, 0, -math.inf
    # Idle ones by use alone: a priority is for requests. To keep an idle engine is what pins are for.
    return (True, member.priority, member.slice_began or 0.0) if member.busy else (False, 0, member.last_used)


def _evictable_at(victim: Member, wanted: Member, limits: PoolLimits) -> float:
    if victim.retired and not victim.queue:
        return 0.0  # it only finishes what it has in flight
    if victim.priority > wanted.priority:  # its client's next request may be on the way, and would wait for a reload
        return math.inf if victim.idle_since is None else victim.idle_since + limits.idle_grace
    began, paid_off = victim.slice_began or 0.0, 2 * victim.load_seconds
    if victim.priority < wanted.priority:
        slice_ends = began + paid_off
    else:
        slice_ends = max(wanted.waiting_since + limits.fairness_wait, began + max(limits.fairness_wait, paid_off))
    if victim.idle_since is None:
        return math.inf if _finishes_first(victim, wanted) else slice_ends
    return min(slice_ends, victim.idle_since + min(limits.idle_grace, victim.load_seconds / 4))


def _finishes_first(victim: Member, wanted: Member) -> bool:
    """Whether serving the victim's older requests takes less time than two loads of it and the other's requests."""
    older = victim.queue.arrived_by(wanted.waiting_since)
    if victim.priority < wanted.priority or older == 0 or victim.times.mean is None:
        return False
    mean = wanted.times.mean if wanted.times.mean is not None else victim.times.mean
    others = len(wanted.queue) * mean / wanted.parallel
    return older * victim.times.mean / victim.parallel < 2 * victim.load_seconds + others
