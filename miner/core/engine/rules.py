"""Rules of single engines and of groups of engines, beyond memory. They may change while engines run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GroupRule:
    """A limit that several engines share. An engine that several models share counts once."""

    name: str
    max_loaded: int | None = None
    """How many of them may be loaded at once; None: any number."""
    exclusive: bool = False
    """Whether no engine from outside the group may be loaded beside one of them."""


@dataclass(frozen=True, slots=True)
class EngineRules:
    """Rules of one engine."""

    priority: int = 0
    """It is not evicted for an engine of lower priority while it has requests, and of those that wait the highest loads
    first."""
    pinned: bool = False
    """Never evict it, nor unload it when it is idle."""
    keep_alive: float | None = None
    """Idle seconds after which it is unloaded where a request does not say; negative: never. None: the pool's
    `idle_timeout`."""
    groups: tuple[GroupRule, ...] = ()
    """The groups to which it belongs."""


NO_RULES = EngineRules()


def combined(rules: Iterable[EngineRules]) -> EngineRules:
    """The rules of an engine that several models share: the strongest of each, as each model was promised."""
    found = list(rules)
    if not found:
        return NO_RULES
    waits = [each.keep_alive for each in found]
    own = [seconds for seconds in waits if seconds is not None]
    longest = -1.0 if any(seconds < 0 for seconds in own) else max(own) if len(own) == len(waits) else None
    return EngineRules(
        priority=max(each.priority for each in found),
        pinned=any(each.pinned for each in found),
        keep_alive=longest,
        groups=tuple(dict.fromkeys(group for each in found for group in each.groups)),
    )
