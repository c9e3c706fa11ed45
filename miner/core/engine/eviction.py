"""Which engine must go so that another can load, and when: pure functions over the members' state.

A model that waits takes free room at once, else the room of idle engines, the least recently used first, else that of
busy ones, whose turn has lasted longest first:

- An **idle** engine goes at once if it has been idle for a moment (`linger`, never more than a quarter of what its load
  took). A client that sends its next request when it has read the last answer leaves such gaps, and must not pay a
  reload for each.
- A **busy** engine goes on with its requests, new ones included, until `fairness_wait` after the other began to wait
  and after its own turn began; then it gets no more, finishes those in flight and yields. A turn also lasts at least
  twice as long as its load took, or engines that are slow to load would do little else. And it first finishes the
  requests that came before the others, if by its recent times that takes less than two swaps and the others' own
  requests: to swap there and back would only make everybody wait longer.
- Pinned, loading and stopping engines stay.

Those that want room are served by `Member.waiting_since`, oldest first; an engine that has yielded joins at the end.
So models take turns in a circle, and a request at the head of its model's queue waits at most (models that compete) x
(turn + longest request + stop + load), where a turn is `fairness_wait` or what was said above. One that cannot have
room yet lets later ones past it, into free room or that of idle engines, until it has waited `fairness_wait`; then only
those that fit beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from miner.core.engine.errors import pinned_out, too_big
from miner.core.engine.limits import PoolLimits
from miner.core.engine.member import Member, State
from miner.errors import BackendError

__all__ = ["EvictionPlan", "fits", "plan_eviction"]


@dataclass(frozen=True, slots=True)
class EvictionPlan:
    """What to do for one model that wants room."""

    load: bool = False
    """There is room."""
    victims: Sequence[Member] = ()
    """Must go, from time `at` on, each when its requests in flight are done."""
    at: float = 0.0
    refusal: BackendError | None = None
    """There never is room, or not while the pins stand."""


_ROOM_IS_COMING = EvictionPlan()
"""A stop that is under way leaves enough: nobody else may take it."""
_LATER = EvictionPlan(at=math.inf)
"""No engine can be chosen before a load that is under way is done."""


def plan_eviction(wanted: Member, members: Iterable[Member], limits: PoolLimits) -> EvictionPlan:
    """How `wanted` gets its room among `members`. See the module's docstring for the rule."""
    occupied = [member for member in members if member.state is not State.UNLOADED]
    if fits(wanted, occupied, limits):
        return EvictionPlan(load=True)
    if not fits(wanted, (), limits):
        return EvictionPlan(refusal=too_big(wanted, limits))
    staying = [member for member in occupied if member.state is not State.STOPPING]
    if fits(wanted, staying, limits):
        return _ROOM_IS_COMING
    victims: list[Member] = []
    for member in sorted(staying, key=_precedence):
        if member.state is State.READY and (member.retired or not member.pinned):
            victims.append(member)
            staying.remove(member)
            if fits(wanted, staying, limits):
                break
    else:
        pinned = [member for member in staying if member.pinned and not member.retired]
        return _LATER if fits(wanted, pinned, limits) else EvictionPlan(refusal=pinned_out(wanted, pinned, limits))
    for member in victims[:-1]:  # a later, larger one may have made an earlier one needless
        if fits(wanted, [*staying, member], limits):
            victims.remove(member)
            staying.append(member)
    return EvictionPlan(victims=victims, at=max(_yields_at(victim, wanted, limits) for victim in victims))


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


def _precedence(member: Member) -> tuple[bool, float]:
    if member.retired:
        return False, -math.inf
    return (True, member.slice_began or 0.0) if member.busy else (False, member.last_used)


def _yields_at(victim: Member, wanted: Member, limits: PoolLimits) -> float:
    if victim.retired and not victim.queue:
        return 0.0  # it only finishes what it has in flight
    began, least = victim.slice_began or 0.0, max(limits.fairness_wait, 2 * victim.load_seconds)
    turn_over = max(wanted.waiting_since + limits.fairness_wait, began + least)
    if victim.idle_since is None:
        return math.inf if _pays_to_finish(victim, wanted) else turn_over
    return min(turn_over, victim.idle_since + min(limits.linger, victim.load_seconds / 4))


def _pays_to_finish(victim: Member, wanted: Member) -> bool:
    older = victim.queue.arrived_by(wanted.waiting_since)
    if older == 0 or victim.times.mean is None:
        return False
    mean = wanted.times.mean if wanted.times.mean is not None else victim.times.mean
    others = len(wanted.queue) * mean / wanted.parallel
    return older * victim.times.mean / victim.parallel < 2 * victim.load_seconds + others
