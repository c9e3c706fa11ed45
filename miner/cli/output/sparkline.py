"""A row of bars, and a clock: what live views share."""

from __future__ import annotations

from collections.abc import Sequence

_BARS = "▁▂▃▄▅▆▇█"
_ASCII_BARS = " .:-=+*#"


def sparkline(values: Sequence[float], width: int, *, unicode: bool = True) -> str:
    """The last values as bars, at the right end of `width` characters; the highest of them has the full height."""
    bars = _BARS if unicode else _ASCII_BARS
    shown = [0.0] * max(0, width - len(values)) + list(values)[-width:]
    top = max(shown, default=0.0)
    if not top:
        return ""
    return "".join(" " if not value else bars[min(7, int(8 * value / top))] for value in shown)


def clock(seconds: float) -> str:
    """Format as m:ss or h:mm:ss."""
    total = min(int(seconds), 359_999)
    hours, minutes = divmod(total // 60, 60)
    return f"{hours}:{minutes:02}:{total % 60:02}" if hours else f"{minutes}:{total % 60:02}"
