"""The keywords of JSON Schema, and small functions on schemas."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

ANNOTATIONS = ("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment")
TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
OF_TYPE = {
    "object": ("properties", "required", "additionalProperties", "patternProperties", "propertyNames", "minProperties",
               "maxProperties", "dependentRequired", "dependentSchemas", "dependencies", "unevaluatedProperties"),
    "array": ("items", "prefixItems", "additionalItems", "minItems", "maxItems", "uniqueItems", "contains",
              "minContains", "maxContains", "unevaluatedItems"),
    "string": ("pattern", "minLength", "maxLength", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}  # fmt: skip
"""The keywords that constrain values of one type."""
ANYWHERE = ("if", "not")
FORMATS = ("date", "time", "date-time", "uuid")
"""Formats that llama.cpp's converter has a rule for; validators do not assert the others either."""
SINGLE = (
    "items", "additionalProperties", "additionalItems", "contains", "propertyNames", "not", "if", "then", "else",
    "unevaluatedProperties", "unevaluatedItems", "contentSchema",
)  # fmt: skip
"""Keywords whose value is a schema."""
LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
"""Keywords whose value is a list of schemas."""
MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
"""Keywords whose value maps names to schemas."""
MAX_ENUM = 1000
"""Values of an enumeration that is made of other keywords, and repetitions of a rule."""
MAX_BRANCHES = 64
"""Alternatives of a product of unions."""

Schema = Any
NEVER: dict[str, Any] = {"not": {}}
"""The translation of a schema under which nothing is valid; compared by identity."""


@dataclass(frozen=True, slots=True)
class Unenforced:
    """A keyword that the engine's grammar does not enforce."""

    keyword: str
    path: str
    """Its path, such as `.properties.price.multipleOf`."""
    why: str = ""


CHECKED = {name for names in OF_TYPE.values() for name in names} | {*ANYWHERE, "then", "else"}
"""The keywords of OF_TYPE and ANYWHERE: they assert something by themselves."""
_ASSERTIONS = CHECKED | {"type", "enum", "const", "anyOf", "oneOf", "allOf"}


def constraints(schema: Mapping[str, Any]) -> bool:
    """Return whether a schema has more than annotations."""
    return any(name in _ASSERTIONS for name in schema)


def annotated(translated: Schema, schema: Mapping[str, Any]) -> Schema:
    """A translated schema with the annotations of the original, which the model may read."""
    notes = {name: schema[name] for name in ANNOTATIONS if name in schema}
    return {**notes, **translated} if notes and translated is not NEVER else translated


def anything() -> dict[str, Any]:
    """The schema of any JSON value. Some converters read an empty schema as any object."""
    return {"type": [kind for kind in TYPES if kind != "integer"]}


def is_anything(schema: Schema) -> bool:
    """Return whether a translated schema is `anything()`."""
    return isinstance(schema, Mapping) and schema.get("type") == anything()["type"]


def union(branches: list[Schema]) -> Schema:
    """Translated schemas as alternatives."""
    left: list[Schema] = []
    for branch in branches:
        if branch is not NEVER and branch not in left:
            left.append(branch)
    if len(left) > 1 and all(set(branch) == {"type"} and isinstance(branch["type"], str) for branch in left):
        return {"type": [branch["type"] for branch in left]}
    return {"anyOf": left} if len(left) > 1 else left[0] if left else NEVER


def types(value: Any) -> set[str]:
    """The types that a `type` keyword allows; a number may be an integer."""
    kinds = {value} if isinstance(value, str) else set(value)
    return kinds | {"integer"} if "number" in kinds else kinds


def same(one: Any, other: Any) -> bool:
    """Equal as JSON: true is not 1."""
    return (
        type(one) is type(other) and one == other if isinstance(one, bool) or isinstance(other, bool) else one == other
    )


def is_number(value: Any) -> bool:
    """Return whether a value is a JSON number (True is not)."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def matches(schema: Mapping[str, Any], name: str) -> bool:
    """Return whether one of the `patternProperties` applies to a property."""
    for pattern in schema.get("patternProperties", {}):
        fits = checker({"pattern": pattern}, None)
        if fits is None or fits(name):
            return True
    return False


def checker(schema: Schema, root: Any) -> Any:
    """A function that returns whether a value is valid; None where the schema cannot be taken out of its document."""
    import jsonschema_rs

    if "$ref" in json.dumps(schema):
        if not isinstance(root, Mapping) or not isinstance(schema, Mapping):
            return None
        schema = {**schema, **{name: root[name] for name in ("$defs", "definitions") if name in root}}
    try:
        return jsonschema_rs.validator_for(schema).is_valid
    except (jsonschema_rs.ValidationError, ValueError):
        return None


def resolve(reference: str, root: Any) -> Schema:
    """Return what a `$ref` inside a document points to: by JSON pointer, or by the name of an anchor.

    Raises:
        ValueError: it points to nothing.
    """
    fragment = unquote(reference.removeprefix("#"))
    missing = ValueError(f"$ref {reference!r} points to nothing")
    if fragment and not fragment.startswith("/"):
        for node in schemas_of(root):
            if fragment in (node.get("$anchor"), node.get("$dynamicAnchor"), str(node.get("$id", "")).strip("#")):
                return node
        raise missing
    target = root
    for step in fragment.split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        if isinstance(target, Mapping) and key in target:
            target = target[key]
        elif isinstance(target, list) and key.isdecimal() and int(key[:6]) < len(target):
            target = target[int(key)]
        else:
            raise missing
    return target


def schemas_of(root: Any) -> Iterator[Mapping[str, Any]]:
    """All objects of a document."""
    stack = [root]
    while stack:
        node = stack.pop()
        if isinstance(node, Mapping):
            yield node
            stack.extend(node.values())
        elif isinstance(node, list):
            stack.extend(node)


def disjoint(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether no value that the grammar of one of them writes is valid under the other."""
    values = [listed_in(part) for part in (one, other)]
    if values[0] is not None and values[1] is not None:
        return not any(same(a, b) for a in values[0] for b in values[1])
    for part, listed in ((one, values[1]), (other, values[0])):
        if listed is not None and "type" in part:
            return not any(json_types(value) & types(part["type"]) for value in listed)
    if "type" in one and "type" in other and not types(one["type"]) & types(other["type"]):
        return True
    mine, yours = one.get("properties", {}), other.get("properties", {})
    both = set(one.get("required", ())) & set(other.get("required", ()))
    if any(disjoint(mine[name], yours[name]) for name in both if name in mine and name in yours):
        return True
    # The grammar writes named properties only.
    return (
        bool(mine and yours)
        and not (one.get("additionalProperties") or other.get("additionalProperties"))
        and not set(other.get("required", ())) <= {*mine, *one.get("required", ())}
        and not set(one.get("required", ())) <= {*yours, *other.get("required", ())}
    )


def listed_in(schema: Mapping[str, Any]) -> list[Any] | None:
    """The values that `const` or `enum` list."""
    return [schema["const"]] if "const" in schema else schema.get("enum")


def json_types(value: Any) -> set[str]:
    """The types that a value has."""
    if isinstance(value, bool):
        return {"boolean"}
    for kind, name in ((dict, "object"), (list, "array"), (str, "string"), (type(None), "null")):
        if isinstance(value, kind):
            return {name}
    return {"number", "integer"} if float(value).is_integer() else {"number"}
