"""Limit of the engines that one request may crash, shared by transport, retries and fallbacks.

A request that crashes its engine must not be retried over and over. The count is in a context variable, because the
hooks between the retries and the transport do not pass it on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class CrashBudget:
    """The crashes of one request."""

    __slots__ = ("crashes",)

    def __init__(self) -> None:
        self.crashes = 0
        """Times that it was sent and the engine was lost without a response."""

    @property
    def exhausted(self) -> bool:
        """Whether it must not be sent again: one retry is allowed."""
        return self.crashes > 1


_current: ContextVar[CrashBudget | None] = ContextVar("crash_budget", default=None)


def current_budget() -> CrashBudget:
    """Return the budget of the request that is being sent; a new one outside of any scope."""
    return _current.get() or CrashBudget()


@contextmanager
def budget_scope(budget: CrashBudget) -> Iterator[None]:
    """Requests sent inside the block use this budget."""
    token = _current.set(budget)
    try:
        yield
    finally:
        _current.reset(token)
