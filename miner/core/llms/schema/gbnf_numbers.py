"""GBNF rules for numbers between two bounds."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any

_DIGITS = 15
"""Significant digits that a double keeps. With more, a text inside of a bound may be parsed as a number outside."""


def number_rule(schema: Mapping[str, Any], *, whole: bool) -> str | None:
    """Return the alternatives for the numbers within the bounds of a schema; None if it has none.

    Raises:
        ValueError: there is no such number of 15 digits.
    """
    lows = [(Decimal(str(schema[n])), n != "minimum") for n in ("minimum", "exclusiveMinimum") if n in schema]
    highs = [(Decimal(str(schema[n])), n == "maximum") for n in ("maximum", "exclusiveMaximum") if n in schema]
    if not lows and not highs:
        return None
    low, low_open = max(lows) if lows else (None, False)
    high, high_closed = min(highs) if highs else (None, True)
    places = max(0, _DIGITS - max(len(str(abs(int(bound)))) for bound in (low, high) if bound is not None))
    low, low_open = _rounded(low, low_open, ROUND_CEILING, places)
    high, high_open = _rounded(high, not high_closed, ROUND_FLOOR, places)
    parts = _range(low, high, low_open=low_open, high_open=high_open, whole=whole, places=places)
    if not parts:
        raise ValueError(f"no number of {_DIGITS} digits is between {schema}")
    return " | ".join(parts)


def _range(
    low: Decimal | None, high: Decimal | None, *, low_open: bool, high_open: bool, whole: bool, places: int
) -> list[str]:
    """Alternatives for the numbers between two bounds, without exponents, with `places` decimal places at most."""
    parts: list[str] = []
    if low is None or low < 0:
        # Below zero: the mirrored range.
        least = Decimal(0) if high is None or high >= 0 else -high
        opened = True if high is None or high >= 0 else high_open
        inner = _positive(least, None if low is None else -low, opened, low_open, whole, places)
        if inner:
            parts.append(f'"-" ( {" | ".join(inner)} )')
    if high is None or high >= 0:
        least = Decimal(0) if low is None or low < 0 else low
        parts += _positive(least, high, low_open and low is not None and low >= 0, high_open, whole, places)
    return parts


def _positive(
    low: Decimal, high: Decimal | None, low_open: bool, high_open: bool, whole: bool, places: int
) -> list[str]:
    low_int, low_part = _split(low)
    high_int, high_part = (None, "") if high is None else _split(high)
    bounds = _Bounds(low_part, high_part, low_open, high_open, places)
    if whole:
        first = low_int + 1 if low_part or low_open else low_int
        last = None if high_int is None else high_int - 1 if high_open and not high_part else high_int
        return _integers(first, last)
    if high_int is not None and low_int == high_int:
        return bounds.numbers(str(low_int), low=True, high=True)
    parts = bounds.numbers(str(low_int), low=True, high=False)
    between = _integers(low_int + 1, None if high_int is None else high_int - 1)
    if between:
        behind = f' ("." [0-9]{{1,{places}}})?' if places else ""
        parts.append(f"( {' | '.join(between)} ){behind}")
    if high_int is not None:
        parts += bounds.numbers(str(high_int), low=False, high=True)
    return parts


def _rounded(bound: Decimal | None, opened: bool, inwards: str, places: int) -> tuple[Decimal | None, bool]:
    """A bound rounded inwards to the decimal places that are written, and whether it is exclusive."""
    if bound is None or bound.as_tuple().exponent >= -places:  # type: ignore[operator]
        return bound, opened
    return bound.quantize(Decimal(1).scaleb(-places), rounding=inwards), False


def _split(number: Decimal) -> tuple[int, str]:
    """The integer part, and the decimal places without trailing zeros."""
    whole = int(number)
    return whole, format(abs(number), "f").partition(".")[2].rstrip("0")


class _Bounds:
    """Decimal places between those of two bounds."""

    def __init__(self, low: str, high: str, low_open: bool, high_open: bool, places: int) -> None:
        self._places = places
        self._low, self._high = low, high
        self._low_open, self._high_open = low_open, high_open

    def numbers(self, whole: str, *, low: bool, high: bool) -> list[str]:
        """Numbers with this integer part; `low`, `high`: whether it is that of the bound."""
        parts = [f'"{whole}"'] if self._may_end(0, low, high) else []
        digits = self._digits(0, low, high)
        if digits:
            parts.append(f'"{whole}." ( {" | ".join(digits)} )')
        return parts

    def _may_end(self, place: int, low: bool, high: bool) -> bool:
        """Whether a number may end here; `low`, `high`: whether its digits so far are the bound's."""
        if low and (place < len(self._low) or self._low_open):
            return False
        return not (high and place >= len(self._high) and self._high_open)

    def _digits(self, place: int, low: bool, high: bool) -> list[str]:
        """Alternatives for the rest, at least one digit."""
        left = self._places - place
        if left <= 0:
            return []
        if high and place >= len(self._high):
            # Zeros alone, which change nothing.
            excluded = self._high_open or (low and (place < len(self._low) or self._low_open))
            return [] if excluded else [f"[0]{{1,{left}}}"]
        if not low and not high:
            return [f"[0-9]{{1,{left}}}"]
        if low and not high and place >= len(self._low):
            if not self._low_open:
                return [f"[0-9]{{1,{left}}}"]
            return [f"[0]{{0,{left // 2}}} [1-9] [0-9]{{0,{left - 1 - left // 2}}}"]
        first = int(self._low[place]) if low and place < len(self._low) else 0
        last = int(self._high[place]) if high else 9
        parts: list[str] = []
        edges = {digit for digit, edge in ((first, low), (last, high)) if edge}
        free = [digit for digit in range(first, last + 1) if digit not in edges]
        if free:
            parts.append(f"[{free[0]}-{free[-1]}] [0-9]{{0,{left - 1}}}")
        for digit in sorted(edges):
            if not first <= digit <= last:
                continue
            stays = low and digit == first, high and digit == last
            more = self._digits(place + 1, *stays)
            if self._may_end(place + 1, *stays):
                parts.append(f'"{digit}"' + (f" ( {' | '.join(more)} )?" if more else ""))
            elif more:
                parts.append(f'"{digit}" ( {" | ".join(more)} )')
        return parts


def _integers(low: int, high: int | None) -> list[str]:
    """Integers from 0 on."""
    if high is None:
        if low == 0:
            return ['"0"', f"[1-9] [0-9]{{0,{_DIGITS - 1}}}"]
        length = len(str(low))
        longer = [f"[1-9] [0-9]{{{length},{_DIGITS}}}"] if length < _DIGITS else []
        return [_same_length(str(low), "9" * length), *longer]
    parts = []
    while low <= high:
        last = min(high, 10 ** len(str(low)) - 1)
        parts.append(_same_length(str(low), str(last)))
        low = last + 1
    return parts


def _same_length(low: str, high: str) -> str:
    """Integers of the same number of digits."""
    if low == high:
        return f'"{low}"'
    if set(low[1:]) <= {"0"} and set(high[1:]) <= {"9"}:
        rest = len(low) - 1
        return f"[{low[0]}-{high[0]}]" + (f" [0-9]{{{rest}}}" if rest else "")
    if low[0] == high[0]:
        return f'"{low[0]}" {_same_length(low[1:], high[1:])}'
    rest = len(low) - 1
    parts = [f'"{low[0]}" {_same_length(low[1:], "9" * rest)}', f'"{high[0]}" {_same_length("0" * rest, high[1:])}']
    if int(high[0]) - int(low[0]) > 1:
        parts.append(f"[{int(low[0]) + 1}-{int(high[0]) - 1}] [0-9]{{{rest}}}")
    return f"( {' | '.join(parts)} )"
