"""Two JSON Schemas that must both hold (`allOf`, a `$ref` with siblings) as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from miner.core.llms.schema.keywords import ANNOTATIONS, CHECKED, matches, same, types

_MAXIMA = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties", "minContains")
"""Lower bounds: the greater one holds."""
_MINIMA = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")


def merged(one: Mapping[str, Any], other: Mapping[str, Any], report: Callable[[str], None]) -> dict[str, Any]:
    """Merge two schemas without `allOf`, `$ref`, `anyOf` and `oneOf`.

    Args:
        report: called with each keyword that only one of them keeps.
    """
    if not one:
        return dict(other)
    result = dict(one)
    for name, value in other.items():
        if name not in result or result[name] == value:
            result[name] = value
        elif name == "type":
            kinds = types(result["type"]) & types(value)
            result["type"] = sorted(kinds)
            if not kinds:
                result["enum"] = []
        elif name == "enum":
            result["enum"] = [item for item in result["enum"] if any(same(item, allowed) for allowed in value)]
        elif name == "const":
            result["enum"] = []
        elif name == "required":
            result["required"] = [*result["required"], *(item for item in value if item not in result["required"])]
        elif name in _MAXIMA:
            result[name] = max(result[name], value)
        elif name in _MINIMA:
            result[name] = min(result[name], value)
        elif name == "uniqueItems":
            result[name] = bool(result[name] or value)
        elif name in ("items", "propertyNames") and not isinstance(value, list):
            result[name] = {"allOf": [result[name], value]}
        elif name not in ("properties", "additionalProperties", *ANNOTATIONS) and name in CHECKED:
            report(name)
    _merge_properties(result, one, other)
    return result


def _merge_properties(result: dict[str, Any], one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Each property under the schemas that both have for it, by name or by `additionalProperties`."""
    if not any(name in part for part in (one, other) for name in ("properties", "additionalProperties")):
        return
    properties: dict[str, Any] = {}
    for name in [*one.get("properties", {}), *other.get("properties", {})]:
        if name in properties:
            continue
        schemas = [
            part["properties"][name] if name in part.get("properties", {}) else part["additionalProperties"]
            for part in (one, other)
            if name in part.get("properties", {}) or ("additionalProperties" in part and not matches(part, name))
        ]
        properties[name] = _both(schemas)
    if properties:
        result["properties"] = properties
    rest = [part["additionalProperties"] for part in (one, other) if "additionalProperties" in part]
    if rest:
        result["additionalProperties"] = _both(rest)


def _both(schemas: list[Any]) -> Any:
    return schemas[0] if len(schemas) == 1 or schemas[0] == schemas[1] else {"allOf": schemas}
