"""Mean, spread and percentiles of a latency."""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec import Struct

PERCENTILES = (50, 90, 95, 99)


class Statistics(Struct, kw_only=True):
    """Of one figure over the requests (or, for itl, the gaps) of a run; in the unit of the figure.

    Percentiles interpolate linearly between the two nearest values, as `numpy.percentile` does by default; `std` is
    that of the population, as `numpy.std`.
    """

    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    min: int | float
    """Whole, as `max`, where the figure counts: a file that is read is written as it was."""
    max: int | float
    std: float
    count: int


def statistics_of(values: Sequence[float]) -> Statistics | None:
    """The statistics of the values; None where there are none."""
    if not values:
        return None
    ordered = sorted(values)
    count = len(ordered)
    mean = math.fsum(ordered) / count
    variance = math.fsum((value - mean) ** 2 for value in ordered) / count
    p50, p90, p95, p99 = (percentile(ordered, share) for share in PERCENTILES)
    return Statistics(
        mean=mean, p50=p50, p90=p90, p95=p95, p99=p99, min=ordered[0], max=ordered[-1], std=math.sqrt(variance),
        count=count,
    )  # fmt: skip


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` percent of the sorted values are, interpolated linearly."""
    position = (len(ordered) - 1) * share / 100
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)
