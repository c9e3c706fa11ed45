"""Why a request has waited for `queue_timeout`, and when it should come again: a slot, its own load, or another's."""

from __future__ import annotations

import math
from collections.abc import Collection

from miner.core.engine.conflicts import conflicts
from miner.core.engine.errors import overloaded
from miner.core.engine.limits import PoolLimits
from miner.core.engine.member import Member, State
from miner.errors import BackendOverloadedError

_SETTING = "MINER_QUEUE_TIMEOUT"
_BEFORE = "load the model before requests come (`preload`, `miner load`)"


def too_late(member: Member, members: Collection[Member], limits: PoolLimits, now: float) -> BackendOverloadedError:
    """The error of a request that has waited `queue_timeout` for `member`; `members` are all of the pool."""
    waited, name = f"{limits.queue_timeout:g} s", repr(member.spec.alias)
    if member.state is State.LOADING:
        seconds = _until_loaded(member, limits, now)
        return _still_loading(member, f"{name} was still loading after {waited}", seconds, f"or {_BEFORE}")
    loading = _loading_in_place_of(member, members, limits)
    if loading:
        seconds = min(_until_it_gives_way(each, limits, now) for each in loading)
        names = " and ".join(repr(each.spec.alias) for each in loading)
        why = f"{name} waited {waited} for its place: {names} {'was' if len(loading) == 1 else 'were'} loading"
        return _still_loading(member, why, seconds, f"{_BEFORE}, or let more be loaded at once")
    waiting = sum(each.backlog for each in members)
    seconds = member.times.retry_after(waiting, member.parallel, most=limits.queue_timeout)
    return overloaded(member, f"no slot was free within {waited}{_behind(member)}", seconds, _SETTING)


def _still_loading(member: Member, why: str, seconds: float, ways_out: str) -> BackendOverloadedError:
    return BackendOverloadedError(
        f"{why}.",
        backend=member.spec.backend,
        retry_after=seconds,
        hint=f"Try again in {math.ceil(seconds)} s.",
        operator_hint=f"Raise {_SETTING}, {ways_out}.",
    )


def _loading_in_place_of(member: Member, members: Collection[Member], limits: PoolLimits) -> list[Member]:
    """The engines whose loads keep one that is not loaded from being so."""
    if member.state is not State.UNLOADED or member.waits_for:
        return []
    present = [each for each in members if each.state is not State.UNLOADED]
    against = [each for conflict in conflicts((member, *present), limits) for each in conflict.members]
    return [each for each in dict.fromkeys(against) if each.state is State.LOADING]


def _until_loaded(member: Member, limits: PoolLimits, now: float) -> float:
    """Seconds that a load still takes: until it is as long as the last one, else as long again as it has taken; at most
    until `start_timeout` or for `queue_timeout`, at least 1.
    """
    taken = now - member.load_began
    last = member.last_load_seconds
    left = last - taken if last is not None and last > taken else taken
    return max(1.0, min(left, limits.start_timeout - taken, limits.queue_timeout))


def _until_it_gives_way(member: Member, limits: PoolLimits, now: float) -> float:
    """Seconds until a load is done, or ended because nobody waits for it."""
    left = _until_loaded(member, limits, now)
    if member.abandoned_at is None or member.pinned:
        return left
    return max(1.0, min(left, member.abandoned_at + limits.fairness_wait - now))


def _behind(member: Member) -> str:
    """The rest of a sentence for an engine that waits for those of higher priority; else empty."""
    if member.state is not State.UNLOADED or not member.waits_for:
        return ""
    names = ", ".join(f"{each.spec.alias!r} (priority {each.priority})" for each in member.waits_for)
    return f", and {names} has requests, which come before its own (priority {member.priority})"
