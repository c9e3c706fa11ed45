"""Schemas as clients write them, made valid JSON Schemas.

Serializers write null for what is not set, and other APIs have type names of their own (Gemini's OBJECT, Python's str).
The parameters of a tool that is not strict are documentation for the model: what is invalid in them is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from miner.core.llms.contract.cache import LRUCache
from miner.core.llms.schema.keywords import ANNOTATIONS, CHECKED, LISTS, MAPS, SINGLE, TYPES, resolve

_ANY_VALUE = ("default", "const", "examples")
_NO_NULLS = {
    *ANNOTATIONS, *CHECKED, "type", "enum", "anyOf", "oneOf", "allOf", "$ref", "$defs", "definitions", "$schema", "$id",
    "$anchor", "$dynamicRef", "$dynamicAnchor", "contentEncoding", "contentMediaType", "contentSchema", "nullable",
}.difference(_ANY_VALUE)  # fmt: skip
_TYPE_NAMES = {
    "str": "string", "int": "integer", "long": "integer", "float": "number", "double": "number", "bool": "boolean",
    "list": "array", "tuple": "array", "dict": "object", "none": "null", "nonetype": "null",
}  # fmt: skip
_DRAFTS = {
    *(f"http://json-schema.org/draft-0{number}/schema" for number in (4, 6, 7)),
    *(f"https://json-schema.org/draft/{date}/schema" for date in ("2019-09", "2020-12")),
}
"""The meta-schemas that the validator has; it would fetch others."""
_MAX_ERRORS = 1000
_CACHE = LRUCache()


def _changed(node: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """The schema with each of its schemas changed, from the outside inwards."""
    if not isinstance(node, Mapping):
        return node
    result = change(dict(node))
    for name in MAPS:
        inner = result.get(name)
        if isinstance(inner, Mapping):
            result[name] = {key: _changed(value, change) for key, value in inner.items()}
    for name in LISTS:
        inner = result.get(name)
        if isinstance(inner, list):
            result[name] = [_changed(value, change) for value in inner]
    for name in SINGLE:
        if isinstance(result.get(name), Mapping):
            result[name] = _changed(result[name], change)
    return result


def without_nulls(schema: Any) -> Any:
    """Return the schema without the keywords whose value is null and must not be."""
    return _changed(schema, lambda node: {n: v for n, v in node.items() if v is not None or n not in _NO_NULLS})


def relaxed(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema without what is invalid in it; the same object where it is valid."""
    try:
        key = msgspec.json.encode(schema)
        result: dict[str, Any] = _CACHE.get((key, None), lambda: _relaxed(msgspec.json.decode(key)))
    except (TypeError, ValueError, RecursionError):
        return schema  # not JSON, or nested too deeply: refused where it is sent
    return schema if result == schema else result


def _relaxed(schema: dict[str, Any]) -> dict[str, Any]:
    old = str(schema.get("$schema", "")).strip("#") in _DRAFTS
    result: dict[str, Any] = _changed(without_nulls(schema), lambda node: _with_standard_names(node, old=old))
    for _ in range(_MAX_ERRORS):
        error = first_error(result)
        if error is None:
            break
        if not error[0]:
            return {}
        _leave_out(result, error[0])
    kept: dict[str, Any] = _changed(result, lambda node: _without_dead_references(node, result))
    return kept


def _with_standard_names(node: dict[str, Any], *, old: bool) -> dict[str, Any]:
    kinds = node.get("type")
    if isinstance(kinds, str) and kinds not in TYPES:
        node["type"] = _TYPE_NAMES.get(kinds.lower(), kinds.lower())
    elif isinstance(kinds, list):
        named = [_TYPE_NAMES.get(str(kind).lower(), str(kind).lower()) for kind in kinds]
        # With an unknown type, any type is allowed.
        if set(named) <= set(TYPES):
            node["type"] = list(dict.fromkeys(named))
        else:
            del node["type"]
    if isinstance(node.get("items"), list) and not old:  # as up to draft 2019-09, without naming the draft
        node["prefixItems"] = node.pop("items")
        if "additionalItems" in node:
            node["items"] = node.pop("additionalItems")
    return node


def first_error(schema: dict[str, Any]) -> tuple[list[str | int], str] | None:
    """Return the path of the first thing that is invalid in a schema, and why; None if it is valid."""
    import jsonschema_rs

    named = schema
    if str(schema.get("$schema", "")).strip("#") not in _DRAFTS:
        named = {name: value for name, value in schema.items() if name != "$schema"}
    try:
        jsonschema_rs.meta.validate(named)
    except jsonschema_rs.ValidationError as invalid:
        value: Any = schema
        for step in invalid.instance_path:
            value = value[step]
        if invalid.instance_path and invalid.instance_path[-1] == "type":
            return list(invalid.instance_path), f"a type is one of {', '.join(TYPES)}, not {str(value)[:80]!r}"
        return list(invalid.instance_path), str(invalid).splitlines()[0][:200]
    return None


def _leave_out(schema: Any, path: list[str | int]) -> None:
    """Leave out what is at this path."""
    *before, last = path
    around: Any = None
    for step in before:
        around, schema = (step, schema), schema[step]
    if around is not None and around[0] in MAPS and isinstance(schema, dict):
        schema[last] = {}  # a property with an invalid schema is still a property
    else:
        del schema[last]


def _without_dead_references(node: dict[str, Any], root: Any) -> dict[str, Any]:
    if isinstance(node.get("$ref"), str) and not _resolves(node["$ref"], root):
        del node["$ref"]
    return node


def _resolves(reference: str, root: Any) -> bool:
    """Whether a reference ends, perhaps through others, at a schema inside of the document."""
    seen: set[str] = set()
    while reference.startswith("#") and reference not in seen:
        seen.add(reference)
        try:
            target = resolve(reference, root)
        except ValueError:
            return False
        if not isinstance(target, Mapping):
            return isinstance(target, bool)
        if not isinstance(target.get("$ref"), str):
            return True
        reference = target["$ref"]
    return False
