"""Circuit breaker: when a crashed engine may be started again. Plain data; its owner locks.

Each failure doubles the pause before the next start (backoff). After too many within a window the circuit opens:
nothing starts during a cooldown, then one attempt is made (half-open). If it fails, the circuit opens again for twice
as long; if the engine becomes ready, the circuit closes and failures count from zero. The cooldown returns to its first
length once an engine has run for as long as the window.
"""

from __future__ import annotations

from collections import deque
from time import monotonic


class CircuitBreaker:
    """Counts the failures of one engine.

    Args:
        backoff: first and longest pause before a start, in seconds.
        limit: failures that open the circuit.
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
        """How often it opened since an engine ran for the window."""
        self._open_until: float | None = None
        self._half_open = False
        self.in_a_row = 0
        """Consecutive failures."""

    @property
    def open_for(self) -> float:
        """Seconds until the next attempt; 0: a start is allowed."""
        return max(0.0, self._open_until - monotonic()) if self._open_until is not None else 0.0

    def begin(self) -> float:
        """A start begins; returns the seconds that it must be delayed."""
        if self._open_until is not None:
            self._open_until, self._half_open = None, True
            return 0.0
        self._drop_old()
        if not self._failures:
            return 0.0
        first, longest = self._backoff
        pause = min(longest, first * 2.0 ** (len(self._failures) - 1))
        return max(0.0, self._failures[-1] + pause - monotonic())

    def ready(self) -> None:
        """The start has succeeded."""
        if self._half_open:
            self._half_open = False
            self._failures.clear()
            self.in_a_row = 0

    def failed(self, ran: float = 0.0) -> bool:
        """The engine failed after `ran` seconds of being ready; returns whether the circuit opened."""
        if ran >= self._window:
            self._opened = 0
        self._failures.append(monotonic())
        self._drop_old()
        self.in_a_row = max(self.in_a_row + 1 if self._half_open else 0, len(self._failures))
        if not self._half_open and len(self._failures) < self._limit:
            return False
        first, longest = self._cooldown
        self._open_until = monotonic() + min(longest, first * 2.0 ** min(self._opened, 32))
        self._opened += 1
        self._half_open = False
        return True

    def _drop_old(self) -> None:
        while self._failures and self._failures[0] < monotonic() - self._window:
            self._failures.popleft()
