"""JSON Schemas as clients write them, made into JSON Schemas.

Serializers write null for what is not set, and other interfaces have type names of their own (Gemini's OBJECT, Python's
str). A tool that is not strict is a description that the model reads: what is no JSON Schema in it says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from miner.core.llms.contract.cache import LRUCache
from miner.core.llms.schema.keywords import ANNOTATIONS, CHECKED, TYPES, resolve

__all__ = ["fault_of", "relaxed", "without_nulls"]

_ANY_VALUE = ("default", "const", "examples")
_NO_NULLS = {
    *ANNOTATIONS, *CHECKED, "type", "enum", "anyOf", "oneOf", "allOf", "$ref", "$defs", "definitions", "$schema", "$id",
    "$anchor", "$dynamicRef", "$dynamicAnchor", "contentEncoding", "contentMediaType", "contentSchema", "nullable",
}.difference(_ANY_VALUE)  # fmt: skip
_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_SINGLE = (
    "items", "additionalProperties", "additionalItems", "contains", "propertyNames", "not", "if", "then", "else",
    "unevaluatedProperties", "unevaluatedItems", "contentSchema",
)  # fmt: skip
_TYPE_NAMES = {
    "str": "string", "int": "integer", "long": "integer", "float": "number", "double": "number", "bool": "boolean",
    "list": "array", "tuple": "array", "dict": "object", "none": "null", "nonetype": "null",
}  # fmt: skip
_DRAFTS = {
    *(f"http://json-schema.org/draft-0{number}/schema" for number in (4, 6, 7)),
    *(f"https://json-schema.org/draft/{date}/schema" for date in ("2019-09", "2020-12")),
}
"""Others would be fetched."""
_MOST_FAULTS = 1000
_CACHE = LRUCache()


def _changed(node: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """The schema with each schema in it changed, from the outside inwards."""
    if not isinstance(node, Mapping):
        return node
    made = change(dict(node))
    for name in _MAPS:
        inner = made.get(name)
        if isinstance(inner, Mapping):
            made[name] = {key: _changed(value, change) for key, value in inner.items()}
    for name in _LISTS:
        inner = made.get(name)
        if isinstance(inner, list):
            made[name] = [_changed(value, change) for value in inner]
    for name in _SINGLE:
        if isinstance(made.get(name), Mapping):
            made[name] = _changed(made[name], change)
    return made


def without_nulls(schema: Any) -> Any:
    """The same without the keywords whose value is null and cannot be."""
    return _changed(schema, lambda node: {n: v for n, v in node.items() if v is not None or n not in _NO_NULLS})


def relaxed(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with what is no JSON Schema left out; the same object where it is one."""
    try:
        key = msgspec.json.encode(schema)
        made: dict[str, Any] = _CACHE.get((key, None), lambda: _relaxed(msgspec.json.decode(key)))
    except (TypeError, ValueError, RecursionError):
        return schema  # not JSON, or deeper than anything reads: told where it is sent
    return schema if made == schema else made


def _relaxed(schema: dict[str, Any]) -> dict[str, Any]:
    old = str(schema.get("$schema", "")).strip("#") in _DRAFTS
    made: dict[str, Any] = _changed(without_nulls(schema), lambda node: _in_our_words(node, old=old))
    for _ in range(_MOST_FAULTS):
        fault = fault_of(made)
        if fault is None:
            break
        if not fault[0]:
            return {}
        _leave_out(made, fault[0])
    kept: dict[str, Any] = _changed(made, lambda node: _without_dead_references(node, made))
    return kept


def _in_our_words(node: dict[str, Any], *, old: bool) -> dict[str, Any]:
    kinds = node.get("type")
    if isinstance(kinds, str) and kinds not in TYPES:
        node["type"] = _TYPE_NAMES.get(kinds.lower(), kinds.lower())
    elif isinstance(kinds, list):
        named = [_TYPE_NAMES.get(str(kind).lower(), str(kind).lower()) for kind in kinds]
        # With a type that there is not, any may come.
        if set(named) <= set(TYPES):
            node["type"] = list(dict.fromkeys(named))
        else:
            del node["type"]
    if isinstance(node.get("items"), list) and not old:  # draft 7's word, without its name
        node["prefixItems"] = node.pop("items")
        if "additionalItems" in node:
            node["items"] = node.pop("additionalItems")
    return node


def fault_of(schema: dict[str, Any]) -> tuple[list[str | int], str] | None:
    """Where a schema is no JSON Schema, and why."""
    import jsonschema_rs

    named = schema
    if str(schema.get("$schema", "")).strip("#") not in _DRAFTS:
        named = {name: value for name, value in schema.items() if name != "$schema"}
    try:
        jsonschema_rs.meta.validate(named)
    except jsonschema_rs.ValidationError as error:
        value: Any = schema
        for step in error.instance_path:
            value = value[step]
        if error.instance_path and error.instance_path[-1] == "type":
            return list(error.instance_path), f"a type is one of {', '.join(TYPES)}, not {str(value)[:80]!r}"
        return list(error.instance_path), str(error).splitlines()[0][:200]
    return None


def _leave_out(schema: Any, path: list[str | int]) -> None:
    """Leave out what stands at this place."""
    *before, last = path
    around: Any = None
    for step in before:
        around, schema = (step, schema), schema[step]
    if around is not None and around[0] in _MAPS and isinstance(schema, dict):
        schema[last] = {}  # a property whose schema is none is a property still
    else:
        del schema[last]


def _without_dead_references(node: dict[str, Any], root: Any) -> dict[str, Any]:
    if isinstance(node.get("$ref"), str) and not _leads_somewhere(node["$ref"], root):
        del node["$ref"]
    return node


def _leads_somewhere(reference: str, root: Any) -> bool:
    """Whether a reference, and those that it leads to, end at a schema inside of the document."""
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
