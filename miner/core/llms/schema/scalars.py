"""Texts and numbers of a JSON Schema, as llama.cpp's converter takes them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from miner.core.llms.schema.keywords import (
    MAX_ENUM,
    NEVER,
    OF_TYPE,
    Schema,
    Translating,
    checker,
    is_number,
)
from miner.core.llms.schema.pattern import PatternError, translated_pattern

__all__ = ["Scalars"]

_FORMAT_PATTERNS = {
    "email": r"^[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+$",
    "ipv4": r"^((25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])\.){3}(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])$",
    "hostname": r"^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?){0,3}$",
    "uri": r"^[a-z][a-z0-9+.-]{0,15}://[A-Za-z0-9._~:/?#@!$&'()*+,;=%-]+$",
    "duration": r"^P([0-9]{1,4}W|[0-9]{1,4}D|([0-9]{1,4}D)?T[0-9]{1,4}[HMS])$",
}
"""Some of the texts of a format, all of them good."""
_INTEGERS = 10**16
"""The grammar's integers have sixteen digits at most."""


class Scalars(Translating):
    """Texts and numbers."""

    def _string(self, schema: Mapping[str, Any], path: str) -> Schema:
        low, high = int(schema.get("minLength", 0)), schema.get("maxLength")
        high = None if high is None else int(high)
        if high is not None and low > high:
            return NEVER
        form = schema.get("format")
        result: dict[str, Any] = {"type": "string"}
        if "pattern" in schema:
            try:
                pattern, shortest, longest = translated_pattern(schema["pattern"])
            except PatternError as error:
                self._lack("pattern", path, str(error))
                return self._sized(result, low, high, path)
            if shortest < low:
                self._lack("minLength", path, "beside pattern")
            if high is not None and (longest is None or longest > high):
                self._lack("maxLength", path, "beside pattern")
            return {**result, "pattern": pattern}
        if form in _FORMAT_PATTERNS and not low and high is None:
            return {**result, "pattern": translated_pattern(_FORMAT_PATTERNS[form])[0]}
        if isinstance(form, str) and not low and high is None:
            return {**result, "format": form}
        return self._sized(result, low, high, path)

    def _sized(self, result: dict[str, Any], low: int, high: int | None, path: str) -> Schema:
        if low > MAX_ENUM * 2:
            self._lack("minLength", path, f"more than {MAX_ENUM * 2}")
            low = 0
        if high is not None and high > MAX_ENUM * 2:
            # The grammar takes such a number for no bound at all: thousands at a time instead.
            if low:
                self._lack("maxLength", path, f"more than {MAX_ENUM * 2}, with minLength")
                return {**result, "minLength": low}
            thousands = min(high // 1000, 1000) - 1
            pattern, _, _ = translated_pattern(rf"^(?:[^\n\r]{{1000}}){{0,{thousands}}}[^\n\r]{{0,1000}}$")
            return {**result, "pattern": pattern}
        if low:
            result["minLength"] = low
        if high is not None:
            result["maxLength"] = high
        return result

    def _integer(self, schema: Mapping[str, Any], path: str) -> Schema:
        low, high = _integers_between(schema)
        if low is not None and high is not None and low > high:
            return NEVER
        step = schema.get("multipleOf", 1)
        if Decimal(str(step)) != 1 and Decimal(1) % Decimal(str(step)) != 0:
            return self._stepped({**schema, "type": "integer"}, low, high, path)
        if high is not None and high >= _INTEGERS:
            high = None
        if low is not None and low <= -_INTEGERS:
            low = None
        if (low is not None and low >= _INTEGERS) or (high is not None and high <= -_INTEGERS):
            self._lack("minimum" if low is not None else "maximum", path, "more than sixteen digits")
            return {"type": "integer"}
        # With one bound alone the converter lets shorter numbers through ("minimum": 1000 allows 19).
        if low is not None and high is None and low != 0:
            high = _INTEGERS - 1
        if high is not None and low is None:
            low = 1 - _INTEGERS
        return {
            "type": "integer",
            **({} if low is None else {"minimum": low}),
            **({} if high is None else {"maximum": high}),
        }

    def _stepped(self, schema: Mapping[str, Any], low: Any, high: Any, path: str) -> Schema:
        """Multiples within bounds, each by itself."""
        step = Decimal(str(schema["multipleOf"]))
        if low is None or high is None or (Decimal(str(high)) - Decimal(str(low))) / step > MAX_ENUM:
            self._lack("multipleOf", path, "" if low is None or high is None else f"more than {MAX_ENUM} values")
            without = {name: value for name, value in schema.items() if name != "multipleOf"}
            return self._integer(without, path) if schema.get("type") == "integer" else self._number(without, path)
        first, last = math.ceil(Decimal(str(low)) / step), math.floor(Decimal(str(high)) / step)
        values = [_number(step * count) for count in range(first, last + 1)]
        allowed = checker({name: schema[name] for name in ("type", *OF_TYPE["number"]) if name in schema}, None)
        values = [value for value in values if allowed is None or allowed(value)]
        return {"enum": values} if values else NEVER

    def _number(self, schema: Mapping[str, Any], path: str) -> Schema:
        lows = [schema[name] for name in ("minimum", "exclusiveMinimum") if is_number(schema.get(name))]
        highs = [schema[name] for name in ("maximum", "exclusiveMaximum") if is_number(schema.get(name))]
        low, high = max(lows, default=None), min(highs, default=None)
        opened = low == schema.get("exclusiveMinimum") or high == schema.get("exclusiveMaximum")
        if low is not None and high is not None and (low > high or (low == high and opened)):
            return NEVER
        if "multipleOf" in schema:
            step = Decimal(str(schema["multipleOf"]))
            if step % 1 == 0:  # integers, then, and those have bounds
                return self._integer({**schema, "type": "integer"}, path)
            return self._stepped({**schema, "type": "number"}, low, high, path)
        names = [name for name in OF_TYPE["number"][:4] if is_number(schema.get(name))]
        if self.number_bounds:
            return {"type": "number", **{name: schema[name] for name in names}}
        for name in names:
            self._lack(name, path, "of numbers that are not integers")
        return {"type": "number"}


def _number(value: Decimal) -> int | float:
    return int(value) if value == value.to_integral_value() else float(value)


def _integers_between(schema: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """The least and the greatest integer that the bounds allow."""
    lows = [math.ceil(schema["minimum"])] if is_number(schema.get("minimum")) else []
    highs = [math.floor(schema["maximum"])] if is_number(schema.get("maximum")) else []
    if is_number(schema.get("exclusiveMinimum")):
        lows.append(math.floor(schema["exclusiveMinimum"]) + 1)
    if is_number(schema.get("exclusiveMaximum")):
        highs.append(math.ceil(schema["exclusiveMaximum"]) - 1)
    return max(lows, default=None), min(highs, default=None)
