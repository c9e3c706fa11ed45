"""Objects and arrays of a JSON Schema, as llama.cpp's converter takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from miner.core.llms.schema.keywords import (
    MAX_BRANCHES,
    MAX_ENUM,
    NEVER,
    Schema,
    Translating,
    checker,
    is_anything,
    listed_in,
    matches,
)

__all__ = ["Containers"]


class Containers(Translating):
    """Objects and arrays."""

    def _object(self, schema: Mapping[str, Any], path: str) -> Schema:
        required = [name for name in schema.get("required", ()) if isinstance(name, str)]
        rest = schema.get("additionalProperties", schema.get("unevaluatedProperties"))
        given = dict(schema.get("properties", {}))
        for name in required:
            given.setdefault(name, True if rest is None or matches(schema, name) else rest)
        listed = listed_in(self._shape(schema["propertyNames"])) if "propertyNames" in schema else None
        if listed is not None and rest is not False:
            for name in listed:
                if isinstance(name, str):
                    given.setdefault(name, True if rest is None else rest)
            rest = False
        closed = rest is False or (rest is None and bool(schema.get("properties")))
        if schema.get("patternProperties"):
            self._patterned(schema, given, path)
            closed = bool(given)
            rest = False if closed else None
        names = checker(schema["propertyNames"], self._root) if "propertyNames" in schema else None
        if "propertyNames" in schema and (names is None or not closed):
            self._lack("propertyNames", path)
        properties: dict[str, Any] = {}
        for name, inner in given.items():
            made = NEVER if names is not None and not names(name) else self._inner(inner, f"{path}.properties.{name}")
            if made is not NEVER:
                properties[name] = made
            elif name in required:
                return NEVER
        result: dict[str, Any] = {"type": "object"}
        if properties or "properties" in schema:
            result["properties"] = properties
        if required:
            result["required"] = required
        open_to = NEVER if closed else self._inner(True if rest is None else rest, f"{path}.additionalProperties")
        forbidden = [name for name in given if name not in properties]
        if closed or open_to is NEVER:
            if "additionalProperties" in schema or "properties" not in result:
                result["additionalProperties"] = False
            open_to = NEVER
        elif forbidden:
            self._lack("properties", path, f"{forbidden[0]} must not come, and others may")
            result["additionalProperties"] = open_to
        elif rest is not None or properties:
            result["additionalProperties"] = True if is_anything(open_to) else open_to
        self._count_properties(schema, required, None if open_to is not NEVER else len(properties), path)
        for name in ("dependentRequired", "dependentSchemas", "dependencies"):
            for asking, asked in schema.get(name, {}).items():
                if open_to is NEVER and asking not in properties:
                    continue
                if not (isinstance(asked, list) and set(asked) <= set(required)):
                    self._lack(name, path)
                    break
        return result

    def _patterned(self, schema: Mapping[str, Any], given: dict[str, Any], path: str) -> None:
        """Properties that are named and fit a pattern are under both; others of the pattern are left out."""
        if not given:
            self._lack("patternProperties", path)
        for pattern, inner in schema["patternProperties"].items():
            fits = checker({"pattern": pattern}, None)
            for name in given:
                if fits is None or fits(name):
                    given[name] = {"allOf": [given[name], inner]}

    def _count_properties(self, schema: Mapping[str, Any], required: list[str], all_of: int | None, path: str) -> None:
        if schema.get("minProperties", 0) > len(set(required)):
            self._lack("minProperties", path)
        if "maxProperties" in schema and (all_of is None or all_of > schema["maxProperties"]):
            self._lack("maxProperties", path)

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
                self._lack(name, path)
        if schema.get("uniqueItems") and not (high is not None and high <= 1):
            self._lack("uniqueItems", path)
        if high is not None and low > high:
            return NEVER
        if first:
            return self._tuple(first, items, low, high, path)
        made = self._inner(items, f"{path}.items") if items is not False else NEVER
        if made is NEVER:
            high = 0 if not low else -1
        if high == -1:
            return NEVER
        result: dict[str, Any] = {"type": "array"}
        if made is NEVER:
            return {**result, "items": {"type": "null"}, "maxItems": 0}
        if low > MAX_ENUM:
            self._lack("minItems", path, f"more than {MAX_ENUM}")
            low = 0
        if high is not None and high > MAX_ENUM:
            self._lack("maxItems", path, f"more than {MAX_ENUM}")
            high = None
        if not is_anything(made) or low or high is not None:
            result["items"] = made
        if low or "minItems" in schema:
            result["minItems"] = low
        if high is not None:
            result["maxItems"] = high
        return result

    def _tuple(self, first: list[Schema], items: Schema, low: int, high: int | None, path: str) -> Schema:
        """All the places at once: a shorter array would be valid too, and the grammar has none."""
        length = len(first) if high is None else min(len(first), high)
        made = [self._inner(part, f"{path}.prefixItems[{place}]") for place, part in enumerate(first[:length])]
        if low > length:
            if low > MAX_BRANCHES:
                self._lack("minItems", path)
            more = self._inner(items, f"{path}.items")
            made += [more] * (min(low, MAX_BRANCHES) - length)
        for place, part in enumerate(made):
            if part is NEVER:
                if place < low:
                    return NEVER
                made = made[:place]
                break
        if not made:
            return {"type": "array", "items": {"type": "null"}, "maxItems": 0}
        return {"type": "array", "prefixItems": made}
