"""How often one request may have reached an engine that then died: transport, retries and fallbacks count together.

A request that kills its engine must not be sent over and over. A context variable carries the count, since the hooks
between those that retry and the transport know nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["CrashBudget", "budget_scope", "current_budget"]


class CrashBudget:
    """The count of one request."""

    __slots__ = ("crashes",)

    def __init__(self) -> None:
        self.crashes = 0
        """Times that it was sent and the engine died without a response."""

    @property
    def exhausted(self) -> bool:
        """Whether it has been sent again as often as it may be: once."""
        return self.crashes > 1


_current: ContextVar[CrashBudget | None] = ContextVar("crash_budget", default=None)


def current_budget() -> CrashBudget:
    """The count of the request that is being sent; a new one where nobody counts yet."""
    return _current.get() or CrashBudget()


@contextmanager
def budget_scope(count: CrashBudget) -> Iterator[None]:
    """What is sent inside the block belongs to this count."""
    token = _current.set(count)
    try:
        yield
    finally:
        _current.reset(token)
