"""Axes: which values have a tick, and where a value lies."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from msgspec import Struct

from miner.cli.bench.report import units

_LOG_FROM = 25.0
"""Quotient of the largest and the smallest value from which an axis is logarithmic."""

_MOST_TICKS = 8


class Axis(Struct, frozen=True):
    """One axis of a chart."""

    label: str
    low: float
    high: float
    ticks: tuple[float, ...]
    text: Callable[[float], str]
    """A tick in words."""
    log: bool = False

    def at(self, value: float) -> float:
        """Where a value lies: 0 is the axis' start, 1 its end."""
        if self.log:
            value = min(max(value, self.low), self.high)  # the ends are rounded: a value may be a ten-thousandth beyond
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def plain_axis(label: str, values: Sequence[float], *, count: int = 5) -> Axis:
    """From 0 to beyond the largest value."""
    top = max(values, default=0.0) or 1.0
    step = _step(top / count)
    ticks = [number * step for number in range(math.ceil(top / step) + 1)]
    return Axis(label, 0.0, ticks[-1], tuple(ticks), lambda value: _short(value, step))


def time_axis(label: str, values: Sequence[float], *, count: int = 5) -> Axis:
    """Seconds in, shown in milliseconds or seconds; logarithmic where the values spread far."""
    positive = [value for value in values if value > 0]
    top, bottom = max(positive, default=1.0), min(positive, default=0.1)
    scale, unit = (1000, "ms") if top < 1 else (1, "s")
    if top / bottom > _LOG_FROM:
        low, high, ticks = _decades(bottom, top)
        return Axis(f"{label}, log scale", low, high, tuple(ticks), _compact, log=True)
    linear = plain_axis("", [scale * value for value in values], count=count)
    return Axis(
        f"{label}, {unit}", 0.0, linear.high / scale, tuple(each / scale for each in linear.ticks),
        lambda value: linear.text(scale * value),
    )  # fmt: skip


def share_axis(label: str) -> Axis:
    """0 to 100 %."""
    return Axis(label, 0.0, 1.0, (0.0, 0.25, 0.5, 0.75, 1.0), lambda value: f"{100 * value:.0f} %")


def named_axis(label: str, names: Sequence[str]) -> Axis:
    """Names side by side, at 0, 1, 2..."""
    return Axis(
        label, -0.5, len(names) - 0.5, tuple(map(float, range(len(names)))), lambda value: names[round(value)]
    )  # fmt: skip


def _step(rough: float) -> float:
    """The next of 1, 2, 2.5, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= rough * 0.999)


def _decades(bottom: float, top: float) -> tuple[float, float, list[float]]:
    """Ends of a logarithmic axis, and its ticks: 1, 2 and 5 of each power of ten, or, where these are many, 1 alone."""
    first, last = math.floor(math.log10(bottom)), math.ceil(math.log10(top))
    every = [digit * 10.0**power for power in range(first, last + 1) for digit in (1, 2, 5)]
    low = max(each for each in every if each <= bottom * 1.0001)
    high = min(each for each in every if each >= top * 0.9999)
    within = [each for each in every if low <= each <= high]
    if len(within) > _MOST_TICKS:
        within = [10.0**power for power in range(first, last + 1) if low <= 10.0**power <= high]
    return low, high, within


def _short(value: float, step: float) -> str:
    if step >= 1000 and value:
        return f"{value / 1000:g}k"
    value = round(value, 9)
    return f"{value:,.0f}".replace(",", " ") if value == int(value) else f"{value:,.10g}".replace(",", " ")


def _compact(value: float) -> str:
    return f"{value:g} s" if value >= 0.9995 else units.seconds(value).replace(".00", "").replace(".0 ", " ")
