"""How much a figure changed between two measurements, and how well that can be told.

An interval holds the true ratio in 95 of 100 measurements. Nothing here draws random numbers: equal measurements give
equal intervals. Samples are in the order in which the requests were sent: one that waits behind another is late with
it, so such requests tell less than as many independent ones, and count for fewer (`independent`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate, islice
from operator import mul

import msgspec

from miner.cli.bench.statistics import percentile

CONFIDENCE = 0.95
_TAIL = (1 - CONFIDENCE) / 2
_Z = 1.959963984540054
"""The normal distribution's quantile for CONFIDENCE."""
_RANKS = 80
"""Ranks of a quantile that are looked at: with many requests, not each one."""
_NEGLIGIBLE = 1e-7
_SHORTEST = 24
"""Values from which on an autocorrelation says something."""
_MOST_FOR_ONE = 4.0


class Ratio(msgspec.Struct, frozen=True):
    """A figure of the new measurement, divided by that of the base."""

    value: float
    low: float | None
    """Lower end of the interval; None: the requests or rounds are too few to bound it."""
    high: float | None
    """Upper end."""

    @property
    def differs(self) -> bool:
        """Whether the interval excludes 1."""
        return (self.low is not None and self.low > 1) or (self.high is not None and self.high < 1)


def quantile_ratio(base: Sequence[float], new: Sequence[float], share: float) -> Ratio:
    """The ratio of a percentile of two samples, with an interval that assumes nothing about their distribution.

    How many of n values lie below the true percentile is binomially distributed; so each rank is as likely to be its
    place as the binomial distribution says. Where that place may be beyond the largest value (p99 of less than 368
    requests), there is no upper end.
    """
    few = independent(base), independent(new)
    base, new = sorted(base), sorted(new)
    value = _divided(percentile(new, 100 * share), percentile(base, 100 * share))
    base, new = _thinned(base, few[0]), _thinned(new, few[1])
    pairs_low, pairs_high = [], []
    of_base, of_new = list(_places(base, share)), list(_places(new, share))
    for base_weight, base_low, base_high in of_base:
        for new_weight, new_low, new_high in of_new:
            weight = base_weight * new_weight
            pairs_low.append((_divided(new_low, base_high), weight))
            pairs_high.append((_divided(new_high, base_low), weight))
    return _ratio(value, _weighted(pairs_low, _TAIL), _weighted(pairs_high, 1 - _TAIL))


def mean_ratio(base: Sequence[float], new: Sequence[float]) -> Ratio:
    """The ratio of the means of two samples: Welch's interval of the ratio's logarithm."""
    (base_mean, base_error), (new_mean, new_error) = _mean(base), _mean(new)
    return _log_interval(
        _divided(new_mean, base_mean),
        (_divided(base_error, base_mean), len(base)),
        (_divided(new_error, new_mean), len(new)),
    )


def share_ratio(base: Sequence[tuple[float, float]], new: Sequence[tuple[float, float]], value: float) -> Ratio:
    """The ratio of two quotients of sums, such as tokens by seconds over requests, around a ratio that was measured.

    Args:
        base: numerator and denominator of each request.
        new: the same.
        value: the ratio, as the whole measurements have it.
    """
    return _log_interval(value, (_quotient_error(base), len(base)), (_quotient_error(new), len(new)))


def rounds_ratio(base: Sequence[float], new: Sequence[float]) -> Ratio:
    """The ratio of a figure that several rounds have: their geometric means, and the spread between rounds."""
    if min(*base, *new) <= 0:
        return mean_ratio(base, new)
    (base_mean, base_error), (new_mean, new_error) = _mean([*map(math.log, base)]), _mean([*map(math.log, new)])
    return _log_interval(math.exp(new_mean - base_mean), (base_error, len(base)), (new_error, len(new)))


def independent(values: Sequence[float]) -> int:
    """How many independent values tell as much as these, by their autocorrelation.

    It counts from the first lag on while it is positive, and only if the first is more than chance would make it. At
    most four count for one: the burst with which a closed loop begins is no sign of more.
    """
    count = len(values)
    mean = math.fsum(values) / count
    off = [value - mean for value in values]
    variance = math.fsum(each * each for each in off)
    if count < _SHORTEST or not 0 < variance < math.inf:
        return count
    inflation = 1.0
    for lag in range(1, count // 4):
        correlation = sum(map(mul, off, islice(off, lag, None))) / variance
        if correlation <= (2 / math.sqrt(count) if lag == 1 else 0):
            break
        inflation += 2 * correlation
        if inflation >= _MOST_FOR_ONE:
            break
    return max(2, round(count / min(inflation, _MOST_FOR_ONE)))


def chance(base_hits: int, base_total: int, new_hits: int, new_total: int) -> float:
    """How likely shares at least as unlike are if nothing had changed (Fisher's exact test, two-sided)."""
    hits, total = base_hits + new_hits, base_total + new_total
    ways = math.comb(total, hits)

    def likely(count: int) -> float:
        return math.comb(base_total, count) * math.comb(new_total, hits - count) / ways

    seen = likely(base_hits) * (1 + 1e-9)
    counts = range(max(0, hits - new_total), min(hits, base_total) + 1)
    return min(1.0, sum(each for each in map(likely, counts) if each <= seen))


def student(freedom: float) -> float:
    """Student's t for CONFIDENCE, two-sided."""
    if freedom < 2:
        return 12.706204736
    if freedom < 3:
        return 4.302652730
    if freedom < 4:
        return 3.182446305
    z = _Z
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )


def _places(values: Sequence[float], share: float) -> Iterator[tuple[float, float, float]]:
    """Where the percentile may be: (weight, value below, value above)."""
    count = len(values)
    log_share, log_rest = math.log(share), math.log1p(-share)
    spread = 6 * math.sqrt(count * share * (1 - share)) + 3
    first, last = max(0, math.floor(count * share - spread)), min(count, math.ceil(count * share + spread))
    step = max(1, (last - first) // _RANKS)
    for below in range(first, last + 1, step):
        upper = min(count, below + step - 1)
        weight = sum(
            math.exp(
                math.lgamma(count + 1) - math.lgamma(rank + 1) - math.lgamma(count - rank + 1)
                + rank * log_share + (count - rank) * log_rest
            )
            for rank in range(below, upper + 1)
        )  # fmt: skip
        if weight > _NEGLIGIBLE:
            yield (
                weight,
                values[below - 1] if below else 0.0,
                values[upper] if upper < count else math.inf,
            )


def _weighted(pairs: list[tuple[float, float]], share: float) -> float:
    """The value below which this share of the weight lies."""
    pairs.sort()
    goal = share * sum(weight for _, weight in pairs)
    sums = accumulate(weight for _, weight in pairs)
    return next((value for (value, _), reached in zip(pairs, sums, strict=True) if reached >= goal), pairs[-1][0])


def _log_interval(value: float, base: tuple[float, int], new: tuple[float, int]) -> Ratio:
    """The interval of a ratio from each side's relative standard error and count."""
    squares = [error**2 for error, _ in (base, new)]
    counts = [count for _, count in (base, new)]
    if min(counts) < 2 or not math.isfinite(sum(squares)) or not 0 < value < math.inf:
        return Ratio(value, None, None)
    if not sum(squares):
        return Ratio(value, value, value)
    freedom = sum(squares) ** 2 / sum(square**2 / (count - 1) for square, count in zip(squares, counts, strict=True))
    margin = student(freedom) * math.sqrt(sum(squares))
    return _ratio(value, value * math.exp(-margin), value * math.exp(min(margin, 700)))


def _ratio(value: float, low: float, high: float) -> Ratio:
    return Ratio(value, low if low > 0 else None, high if math.isfinite(high) else None)


def _mean(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, math.inf
    variance = math.fsum((each - mean) ** 2 for each in values) / (len(values) - 1)
    return mean, math.sqrt(variance / independent(values))


def _thinned(values: Sequence[float], count: int) -> Sequence[float]:
    """So many values of the same distribution."""
    if count >= len(values):
        return values
    return [values[int((place + 0.5) * len(values) / count)] for place in range(count)]


def _quotient_error(pairs: Sequence[tuple[float, float]]) -> float:
    """Relative standard error of a quotient of sums."""
    above, below = math.fsum(each for each, _ in pairs), math.fsum(each for _, each in pairs)
    if len(pairs) < 2 or not above or not below:
        return math.inf
    quotient = above / below
    off = [high - quotient * low for high, low in pairs]
    squares = math.fsum(each * each for each in off) * len(pairs) / (len(pairs) - 1)
    return math.sqrt(squares * len(pairs) / independent(off)) / above


def _divided(above: float, below: float) -> float:
    if math.isinf(below):
        return 0.0
    if below == 0:
        return 1.0 if above == 0 else math.inf
    return above / below
