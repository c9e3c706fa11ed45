"""Series: numbers that are counted for each set of labels, cheaply; `exposition.py` writes them for Prometheus.

No locks: everything is counted on the event loop.
"""

from __future__ import annotations

from bisect import bisect_left

__all__ = ["Histogram", "ModelNames", "ModelSeries"]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_GAPS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 10.0)


class Histogram:
    """How often a value fell between which bounds."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...] = _SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value that came so many times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def buckets(self) -> list[tuple[str, float]]:
        """Upper bounds and how many values are below each."""
        below, told = 0, []
        for bound, count in zip((*map(repr, self.bounds), "+Inf"), self.counts, strict=True):
            below += count
            told.append((bound, float(below)))
        return told


class ModelSeries:
    """What is counted for one model."""

    __slots__ = ("between", "cancelled", "first", "tokens_in", "tokens_out")

    def __init__(self) -> None:
        self.first = Histogram()
        """Seconds to the first token of streams."""
        self.between = Histogram(_GAPS)
        """Seconds between tokens of streams."""
        self.tokens_in = 0
        self.tokens_out = 0
        self.cancelled = 0


class ModelNames:
    """Labels for models: names that a backend has answered to, and no more of them than fit into a monitoring system.

    A client can ask for any name; one that nothing came from is "other".
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: set[str] = set()

    def proved(self, name: str) -> str:
        """The label of a model that has answered."""
        if name not in self._known:
            if len(self._known) >= self._most or len(name) > 200:
                return "other"
            self._known.add(name)
        return name

    def asked(self, name: str) -> str:
        """The label of a model that was asked for."""
        return name if name in self._known else "other"
