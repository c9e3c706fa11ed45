"""The errors of an engine pool."""

from __future__ import annotations

import math
from collections.abc import Sequence

from miner.core.engine.conflicts import Conflict, conflicts
from miner.core.engine.limits import PoolLimits
from miner.core.engine.member import Member
from miner.errors import BackendOverloadedError, EngineStartError, EngineStoppedError, ServiceClosedError


def overloaded(member: Member, why: str, retry_after: float, setting: str) -> BackendOverloadedError:
    """The queue is full, or the wait was too long."""
    return BackendOverloadedError(
        f"The engine of {member.spec.alias!r} is overloaded: {why}.",
        backend=member.spec.backend,
        retry_after=retry_after,
        hint=f"Try again in {math.ceil(retry_after)} s.",
        operator_hint=f"Raise {setting}.",
    )


def too_big(wanted: Member, limits: PoolLimits) -> EngineStartError:
    """The model does not fit into the memory budget, even alone."""
    text = f"{wanted.spec.alias!r} needs about {wanted.booked} bytes"
    text += f" and {_each(wanted.gpu_need)} on the GPUs" if any(wanted.gpu_need) else ""
    text += f", and all engines together may take {limits.memory_budget} bytes"
    text += f" and {_each(limits.gpu_budget)} on the GPUs" if limits.gpu_budget else ""
    return EngineStartError(
        f"{text}.",
        backend=wanted.spec.backend,
        retryable=False,
        operator_hint=f"Raise LLAMACPP_MEMORY_BUDGET, or {wanted.spec.smaller_hint}.",
    )


def crowded_out(wanted: Member, limits: PoolLimits) -> BackendOverloadedError:
    """The model would fit if other programs did not take the memory."""
    text = f"{wanted.spec.alias!r} needs about {wanted.booked} bytes"
    text += f" and {_each(wanted.gpu_need)} on the GPUs" if any(wanted.gpu_need) else ""
    text += f", and {limits.memory_budget} bytes"
    text += f" and {_each(limits.gpu_budget)} on the GPUs" if limits.gpu_budget else ""
    return BackendOverloadedError(
        f"{text} are left for all engines together: other programs take the rest.",
        backend=wanted.spec.backend,
        retry_after=30.0,
        hint="Try again later.",
        operator_hint=_users(limits) or "End other programs, or use a smaller model.",
    )


def _users(limits: PoolLimits) -> str:
    return f"The largest other programs: {', '.join(limits.others)}." if limits.others else ""


def pinned_out(wanted: Member, pinned: Sequence[Member], limits: PoolLimits) -> BackendOverloadedError:
    """The model may not be loaded beside the pinned engines."""
    names = ", ".join(repr(member.spec.alias) for member in pinned)
    bounds = [_reason(conflict, wanted) for conflict in conflicts((wanted, *pinned), limits)]
    return BackendOverloadedError(
        f"{wanted.spec.alias!r} cannot be loaded beside the pinned {names}: {'; '.join(bounds)}.",
        backend=wanted.spec.backend,
        retry_after=60.0,
        hint="Try again later, or use one of those models.",
        operator_hint="Unpin a model, or raise the limit that it exceeds: LLAMACPP_MEMORY_BUDGET, LLAMACPP_MAX_LOADED, "
        f"or that of the group. {_users(limits)}".rstrip(),
    )


def _reason(conflict: Conflict, wanted: Member) -> str:
    """One limit that `wanted` would exceed together with others."""
    others = [member for member in conflict.members if member is not wanted]
    group = f"group {conflict.group.name!r}" if conflict.group is not None else ""
    match conflict.kind:
        case "count":
            return f"they are {len(others)} of at most {conflict.limit} loaded"
        case "memory":
            held = sum(member.booked for member in others)
            return f"it needs about {wanted.booked} bytes, they hold {held} of {conflict.limit}"
        case "gpu":
            needs = [member.gpu_need[conflict.gpu] for member in others if conflict.gpu < len(member.gpu_need)]
            own = wanted.gpu_need[conflict.gpu] if conflict.gpu < len(wanted.gpu_need) else 0
            return f"it needs {own} bytes on GPU {conflict.gpu}, they hold {sum(needs)} of {conflict.limit}"
        case "group":
            names = ", ".join(repr(member.spec.alias) for member in others)
            return f"{group} allows {conflict.limit} loaded at once, and {names} is pinned"
        case "exclusive":
            inside = [member for member in conflict.members if conflict.group in member.rules.groups]
            names = ", ".join(repr(member.spec.alias) for member in inside)
            return f"{group} with {names} allows no other model beside it"


def not_started(member: Member, error: BaseException, limits: PoolLimits) -> EngineStartError:
    """The load took longer than `start_timeout`, or failed with an unexpected error."""
    late = isinstance(error, TimeoutError)
    why = f"it was not ready after {limits.start_timeout:g} s" if late else f"{type(error).__name__}: {error}"
    result = EngineStartError(
        f"The engine of {member.spec.alias!r} did not start: {why}.",
        backend=member.spec.backend,
        log_tail=member.engine.log_tail,
    )
    result.__cause__ = error
    return result


def stopped(member: Member) -> EngineStoppedError:
    """Somebody has stopped the engine while requests waited for it."""
    return EngineStoppedError(
        f"The engine of {member.spec.alias!r} was stopped by an operator before this request had its turn.",
        backend=member.spec.backend,
        hint="Send the request again: that loads the model again.",
    )


def closed() -> ServiceClosedError:
    """The pool was closed."""
    return ServiceClosedError("The service was closed and its engines are stopped.", hint="Create a new service.")


def _each(sizes: Sequence[int]) -> str:
    return " + ".join(map(str, sizes)) + " bytes"
