"""Figures as people read them: three digits that count, and a unit that fits."""

from __future__ import annotations


def number(value: float) -> str:
    """Three significant digits without an exponent, whole numbers with a space between thousands."""
    size = abs(value)
    if size >= 99.95:
        return f"{value:,.0f}".replace(",", " ")
    if size >= 9.995:
        return f"{value:.1f}"
    if size >= 0.9995 or not size:
        return f"{value:.2f}"
    return f"{value:.3f}" if size >= 0.0995 else f"{value:#.2g}" if size >= 0.0001 else f"{value:.1e}"


def whole(count: int) -> str:
    """A count, with a space between thousands."""
    return f"{count:,}".replace(",", " ")


def seconds(value: float | None) -> str:
    """A time: milliseconds below one second; `-` where there is none."""
    if value is None:
        return "-"
    if abs(value) < 0.9995:
        return f"{number(1000 * value)} ms"
    return f"{number(value)} s"


def rate(value: float | None) -> str:
    """Something per second, without the unit."""
    return "-" if value is None else number(value)


def percent(share: float) -> str:
    """A share: `12 %`; no digit is invented, and what is not all is never 100 %."""
    whole = 100 * share
    if 0 < whole < 1 or 99 < whole < 100:
        return f"{min(max(whole, 0.01), 99.99):.2g} %" if whole < 1 else f"{min(whole, 99.9):.1f} %"
    return f"{whole:.0f} %"
