"""When an engine may be started again after it has failed: a circuit breaker. Plain data; its owner locks.

Each failure makes the pause before the next start longer (backoff). After too many in a short time the circuit opens:
nobody starts anything before a cooldown is over. Then there is one try. If it fails, the circuit opens again, for twice
as long; if the engine becomes ready, the circuit is closed and failures count from zero. The length of the cooldown is
forgotten once an engine has run for as long as failures count.
"""

from __future__ import annotations

from collections import deque
from time import monotonic

__all__ = ["CircuitBreaker"]


class CircuitBreaker:
    """Counts the failures of one engine.

    Args:
        backoff: first and longest pause before a start, in seconds.
        limit: failures after which the circuit opens.
        window: seconds within which they count.
        cooldown: first and longest time for which it stays open, in seconds.
    """

    def __init__(
        self, *, backoff: tuple[float, float], limit: int, window: float, cooldown: tuple[float, float]
    ) -> None:
        self._backoff = backoff
        self._limit = limit
        self._window = window
        self._cooldown = cooldown
        self.reset()

    def reset(self) -> None:
        """Forget all failures."""
        self._failures: deque[float] = deque()
        self._opened = 0
        """How often it has opened since an engine ran for long."""
        self._open_until: float | None = None
        self._last_try = False
        self.in_a_row = 0
        """Failures since the circuit was closed, or since they began to count."""

    @property
    def open_for(self) -> float:
        """Seconds until there is a try again; 0 where a start is allowed."""
        return max(0.0, self._open_until - monotonic()) if self._open_until is not None else 0.0

    def begin(self) -> float:
        """A start begins; gives the seconds that it has to wait."""
        if self._open_until is not None:
            self._open_until, self._last_try = None, True
            return 0.0
        self._drop_old()
        if not self._failures:
            return 0.0
        first, longest = self._backoff
        pause = min(longest, first * 2.0 ** (len(self._failures) - 1))
        return max(0.0, self._failures[-1] + pause - monotonic())

    def ready(self) -> None:
        """The start has succeeded."""
        if self._last_try:
            self._last_try = False
            self._failures.clear()
            self.in_a_row = 0

    def failed(self, ran: float = 0.0) -> bool:
        """The engine failed after it had been ready for `ran` seconds. Whether the circuit opened now."""
        if ran >= self._window:
            self._opened = 0
        self._failures.append(monotonic())
        self._drop_old()
        self.in_a_row = max(self.in_a_row + 1 if self._last_try else 0, len(self._failures))
        if not self._last_try and len(self._failures) < self._limit:
            return False
        first, longest = self._cooldown
        self._open_until = monotonic() + min(longest, first * 2.0 ** min(self._opened, 32))
        self._opened += 1
        self._last_try = False
        return True

    def _drop_old(self) -> None:
        while self._failures and self._failures[0] < monotonic() - self._window:
            self._failures.popleft()
