"""One type of a JSON Schema at a time: the object, array, string or number that llama.cpp's converter takes instead."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from miner.core.llms.schema.keywords import (
    MAX_BRANCHES,
    MAX_ENUM,
    NEVER,
    OF_TYPE,
    Schema,
    checker,
    is_anything,
    is_number,
    listed_in,
    matches,
)
from miner.core.llms.schema.pattern import PatternError, translate_pattern

_FORMAT_PATTERNS = {
    "email": r"^[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+$",
    "ipv4": r"^((25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])\.){3}(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])$",
    "hostname": r"^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?){0,3}$",
    "uri": r"^[a-z][a-z0-9+.-]{0,15}://[A-Za-z0-9._~:/?#@!$&'()*+,;=%-]+$",
    "duration": r"^P([0-9]{1,4}W|[0-9]{1,4}D|([0-9]{1,4}D)?T[0-9]{1,4}[HMS])$",
}
"""Formats that the converter has no rule for: a subset of their strings, all of them valid."""
_MAX_REPEATS = 2000
"""llama.cpp's grammars take a higher number of repetitions as unbounded."""
_INTEGER_LIMIT = 10**16
"""The converter's integers have sixteen digits at most."""


class TypeTranslator:
    """Translates schemas of one type without `$ref` and combinators; the subclass adds those."""

    number_bounds: bool
    """Whether bounds of numbers stay, for a grammar of our own (`gbnf`): the converter enforces only integers'."""
    _root: Any

    def _report(self, keyword: str, path: str, why: str = "") -> None:
        """Note that a keyword is not enforced."""
        raise NotImplementedError

    def _subschema(self, schema: Schema, path: str) -> Schema:
        """Translate a schema inside of an object or array."""
        raise NotImplementedError

    def _summary(self, schema: Schema, depth: int = 0) -> dict[str, Any]:
        """The types, values and properties that a schema allows."""
        raise NotImplementedError

    # Objects

    def _object(self, schema: Mapping[str, Any], path: str) -> Schema:
        required = [name for name in schema.get("required", ()) if isinstance(name, str)]
        rest = schema.get("additionalProperties", schema.get("unevaluatedProperties"))
        declared = dict(schema.get("properties", {}))
        for name in required:
            declared.setdefault(name, True if rest is None or matches(schema, name) else rest)
        listed = listed_in(self._summary(schema["propertyNames"])) if "propertyNames" in schema else None
        if listed is not None and rest is not False:
            for name in listed:
                if isinstance(name, str):
                    declared.setdefault(name, True if rest is None else rest)
            rest = False
        closed = rest is False or (rest is None and bool(schema.get("properties")))
        if schema.get("patternProperties"):
            self._apply_patterns(schema, declared, path)
            closed = bool(declared)
            rest = False if closed else None
        names = checker(schema["propertyNames"], self._root) if "propertyNames" in schema else None
        if "propertyNames" in schema and (names is None or not closed):
            self._report("propertyNames", path)
        properties: dict[str, Any] = {}
        for name, inner in declared.items():
            allowed = names is None or names(name)
            translated = self._subschema(inner, f"{path}.properties.{name}") if allowed else NEVER
            if translated is not NEVER:
                properties[name] = translated
            elif name in required:
                return NEVER
        result: dict[str, Any] = {"type": "object"}
        if properties or "properties" in schema:
            result["properties"] = properties
        if required:
            result["required"] = required
        others = NEVER if closed else self._subschema(True if rest is None else rest, f"{path}.additionalProperties")
        forbidden = [name for name in declared if name not in properties]
        if closed or others is NEVER:
            if "additionalProperties" in schema or "properties" not in result:
                result["additionalProperties"] = False
            others = NEVER
        elif forbidden:
            self._report("properties", path, f"{forbidden[0]} is not allowed, and others are")
            result["additionalProperties"] = others
        elif rest is not None or properties:
            result["additionalProperties"] = True if is_anything(others) else others
        most = len(properties) if others is NEVER else None
        if schema.get("minProperties", 0) > len(set(required)):
            self._report("minProperties", path)
        if "maxProperties" in schema and (most is None or most > schema["maxProperties"]):
            self._report("maxProperties", path)
        for keyword in ("dependentRequired", "dependentSchemas", "dependencies"):
            for name, needed in schema.get(keyword, {}).items():
                if others is NEVER and name not in properties:
                    continue
                if not (isinstance(needed, list) and set(needed) <= set(required)):
                    self._report(keyword, path)
                    break
        return result

    def _apply_patterns(self, schema: Mapping[str, Any], declared: dict[str, Any], path: str) -> None:
        """`patternProperties` of the declared properties; the grammar allows no others of a pattern."""
        if not declared:
            self._report("patternProperties", path)
        for pattern, inner in schema["patternProperties"].items():
            fits = checker({"pattern": pattern}, None)
            for name in declared:
                if fits is None or fits(name):
                    declared[name] = {"allOf": [declared[name], inner]}

    # Arrays

    def _array(self, schema: Mapping[str, Any], path: str) -> Schema:
        items, first = schema.get("items", True), list(schema.get("prefixItems", ()))
        if isinstance(items, list):  # up to draft 2019-09
            first, items = items, schema.get("additionalItems", True)
        low, high = int(schema.get("minItems", 0)), schema.get("maxItems")
        high = None if high is None else int(high)
        if items is True and schema.get("unevaluatedItems") is False:
            items = False
        if items is False:
            high = len(first) if high is None else min(high, len(first))
        for name in ("contains", "unevaluatedItems"):
            if name in schema and schema[name] is not True and not (name == "unevaluatedItems" and items is False):
                self._report(name, path)
        if schema.get("uniqueItems") and not (high is not None and high <= 1):
            self._report("uniqueItems", path)
        if high is not None and low > high:
            return NEVER
        if first:
            return self._tuple(first, items, low, high, path)
        translated = self._subschema(items, f"{path}.items") if items is not False else NEVER
        if translated is NEVER:
            return NEVER if low else {"type": "array", "items": {"type": "null"}, "maxItems": 0}
        if low > MAX_ENUM:
            self._report("minItems", path, f"more than {MAX_ENUM}")
            low = 0
        if high is not None and high > MAX_ENUM:
            self._report("maxItems", path, f"more than {MAX_ENUM}")
            high = None
        result: dict[str, Any] = {"type": "array"}
        if not is_anything(translated) or low or high is not None:
            result["items"] = translated
        if low or "minItems" in schema:
            result["minItems"] = low
        if high is not None:
            result["maxItems"] = high
        return result

    def _tuple(self, first: list[Schema], items: Schema, low: int, high: int | None, path: str) -> Schema:
        """`prefixItems`, all of them: shorter arrays would be valid, too, but the converter has no rule for them."""
        length = len(first) if high is None else min(len(first), high)
        translated = [
            self._subschema(part, f"{path}.prefixItems[{place}]") for place, part in enumerate(first[:length])
        ]
        if low > length:
            if low > MAX_BRANCHES:
                self._report("minItems", path)
            more = self._subschema(items, f"{path}.items")
            translated += [more] * (min(low, MAX_BRANCHES) - length)
        for place, part in enumerate(translated):
            if part is NEVER:
                if place < low:
                    return NEVER
                translated = translated[:place]
                break
        if not translated:
            return {"type": "array", "items": {"type": "null"}, "maxItems": 0}
        return {"type": "array", "prefixItems": translated}

    # Strings

    def _string(self, schema: Mapping[str, Any], path: str) -> Schema:
        low, high = int(schema.get("minLength", 0)), schema.get("maxLength")
        high = None if high is None else int(high)
        if high is not None and low > high:
            return NEVER
        form = schema.get("format")
        if "pattern" in schema:
            try:
                pattern, shortest, longest = translate_pattern(schema["pattern"])
            except PatternError as error:
                self._report("pattern", path, str(error))
                return self._sized(low, high, path)
            if shortest < low:
                self._report("minLength", path, "beside pattern")
            if high is not None and (longest is None or longest > high):
                self._report("maxLength", path, "beside pattern")
            return {"type": "string", "pattern": pattern}
        if isinstance(form, str) and not low and high is None:
            if form in _FORMAT_PATTERNS:
                return {"type": "string", "pattern": translate_pattern(_FORMAT_PATTERNS[form])[0]}
            return {"type": "string", "format": form}
        return self._sized(low, high, path)

    def _sized(self, low: int, high: int | None, path: str) -> Schema:
        """A string with a number of characters between these."""
        result: dict[str, Any] = {"type": "string"}
        if low > _MAX_REPEATS:
            self._report("minLength", path, f"more than {_MAX_REPEATS}")
            low = 0
        if low:
            result["minLength"] = low
        if high is None:
            return result
        if high <= _MAX_REPEATS:
            return {**result, "maxLength": high}
        if low:
            self._report("maxLength", path, f"more than {_MAX_REPEATS}, with minLength")
            return result
        thousands = min(high // 1000, 1000) - 1
        pattern, _, _ = translate_pattern(rf"^(?:[^\n\r]{{1000}}){{0,{thousands}}}[^\n\r]{{0,1000}}$")
        return {**result, "pattern": pattern}

    # Numbers

    def _integer(self, schema: Mapping[str, Any], path: str) -> Schema:
        low, high = _integers_between(schema)
        if low is not None and high is not None and low > high:
            return NEVER
        step = Decimal(str(schema.get("multipleOf", 1)))
        if step != 1 and Decimal(1) % step != 0:
            return self._multiples({**schema, "type": "integer"}, low, high, path)
        if high is not None and high >= _INTEGER_LIMIT:
            high = None
        if low is not None and low <= -_INTEGER_LIMIT:
            low = None
        if (low is not None and low >= _INTEGER_LIMIT) or (high is not None and high <= -_INTEGER_LIMIT):
            self._report("minimum" if low is not None else "maximum", path, "more than sixteen digits")
            return {"type": "integer"}
        # With one bound alone the converter allows shorter numbers beyond it ("minimum": 1000 allows 19).
        if low is not None and high is None and low != 0:
            high = _INTEGER_LIMIT - 1
        if high is not None and low is None:
            low = 1 - _INTEGER_LIMIT
        result: dict[str, Any] = {"type": "integer"}
        if low is not None:
            result["minimum"] = low
        if high is not None:
            result["maximum"] = high
        return result

    def _multiples(self, schema: Mapping[str, Any], low: Any, high: Any, path: str) -> Schema:
        """The multiples of `multipleOf` within bounds, as an enumeration."""
        step = Decimal(str(schema["multipleOf"]))
        if low is None or high is None or (Decimal(str(high)) - Decimal(str(low))) / step > MAX_ENUM:
            self._report("multipleOf", path, "" if low is None or high is None else f"more than {MAX_ENUM} values")
            without = {name: value for name, value in schema.items() if name != "multipleOf"}
            return self._integer(without, path) if schema.get("type") == "integer" else self._number(without, path)
        first, last = math.ceil(Decimal(str(low)) / step), math.floor(Decimal(str(high)) / step)
        multiples = [step * count for count in range(first, last + 1)]
        values = [int(number) if number == number.to_integral_value() else float(number) for number in multiples]
        allowed = checker({name: schema[name] for name in ("type", *OF_TYPE["number"]) if name in schema}, None)
        values = [value for value in values if allowed is None or allowed(value)]
        return {"enum": values} if values else NEVER

    def _number(self, schema: Mapping[str, Any], path: str) -> Schema:
        lows = [schema[name] for name in ("minimum", "exclusiveMinimum") if is_number(schema.get(name))]
        highs = [schema[name] for name in ("maximum", "exclusiveMaximum") if is_number(schema.get(name))]
        low, high = max(lows, default=None), min(highs, default=None)
        exclusive = low == schema.get("exclusiveMinimum") or high == schema.get("exclusiveMaximum")
        if low is not None and high is not None and (low > high or (low == high and exclusive)):
            return NEVER
        if "multipleOf" in schema:
            if Decimal(str(schema["multipleOf"])) % 1 == 0:  # integers, then, whose bounds are enforced
                return self._integer({**schema, "type": "integer"}, path)
            return self._multiples({**schema, "type": "number"}, low, high, path)
        bounds = {name: schema[name] for name in OF_TYPE["number"][:4] if is_number(schema.get(name))}
        if self.number_bounds:
            return {"type": "number", **bounds}
        for name in bounds:
            self._report(name, path, "of numbers that are not integers")
        return {"type": "number"}


def _integers_between(schema: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """The least and the greatest integer that the bounds allow."""
    lows = [math.ceil(schema["minimum"])] if is_number(schema.get("minimum")) else []
    highs = [math.floor(schema["maximum"])] if is_number(schema.get("maximum")) else []
    if is_number(schema.get("exclusiveMinimum")):
        lows.append(math.floor(schema["exclusiveMinimum"]) + 1)
    if is_number(schema.get("exclusiveMaximum")):
        highs.append(math.ceil(schema["exclusiveMaximum"]) - 1)
    return max(lows, default=None), min(highs, default=None)
