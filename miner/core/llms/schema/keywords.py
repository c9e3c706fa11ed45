"""The words of JSON Schema, and small questions about schemas."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

__all__ = [
    "ANNOTATIONS", "ANYWHERE", "CHECKED", "FORMATS", "MAX_BRANCHES", "MAX_ENUM", "NEVER", "OF_TYPE", "TYPES", "Lack",
    "Schema", "Translating", "annotated", "anything", "checker", "constraints", "disjoint", "is_anything", "is_never",
    "is_number", "json_types", "listed_in", "matches", "resolve", "same", "schemas_of", "types", "union",
]  # fmt: skip

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
ANYWHERE = ("if", "not")
FORMATS = ("date", "time", "date-time", "uuid")
"""Those that the converter writes; the others say nothing to a validator either."""
MAX_ENUM = 1000
MAX_BRANCHES = 64

Schema = Any
Never = dict[str, Any]
NEVER: Never = {"not": {}}


def is_never(schema: Schema) -> bool:
    """Whether nothing is valid under a translated schema."""
    return schema is NEVER


@dataclass(frozen=True, slots=True)
class Lack:
    """A keyword that no grammar here enforces."""

    keyword: str
    path: str
    """Where it stands, with its name: `.properties.price.multipleOf`."""
    why: str = ""


class Translating:
    """What the parts of a translator have in common."""

    number_bounds: bool
    _root: Any

    def _lack(self, keyword: str, path: str, why: str = "") -> None:
        raise NotImplementedError

    def _inner(self, schema: Schema, path: str) -> Schema:
        raise NotImplementedError

    def _shape(self, schema: Schema, depth: int = 0) -> dict[str, Any]:
        raise NotImplementedError


CHECKED = {name for names in OF_TYPE.values() for name in names} | {*ANYWHERE, "then", "else"}
_WORDS = CHECKED | {"type", "enum", "const", "anyOf", "oneOf", "allOf"}


def constraints(schema: Mapping[str, Any]) -> bool:
    """Whether it says more than annotations."""
    return any(name in _WORDS for name in schema)


def annotated(made: Schema, schema: Mapping[str, Any]) -> Schema:
    """`made` with the annotations of `schema`."""
    notes = {name: schema[name] for name in ANNOTATIONS if name in schema}
    return {**notes, **made} if notes and made is not NEVER else made


def anything() -> dict[str, Any]:
    """All that JSON has. Some converters read an empty schema as any object."""
    return {"type": [kind for kind in TYPES if kind != "integer"]}


def is_anything(schema: Schema) -> bool:
    """Whether it is that of `anything`."""
    return isinstance(schema, Mapping) and schema.get("type") == anything()["type"]


def union(branches: list[Schema]) -> Schema:
    """The schema of values that match any of these, as simple as it can be."""
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
    """Whether it is a JSON number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def matches(schema: Mapping[str, Any], name: str) -> bool:
    """Whether a property is under one of the patterns."""
    for pattern in schema.get("patternProperties", {}):
        fits = checker({"pattern": pattern}, None)
        if fits is None or fits(name):
            return True
    return False


def checker(schema: Schema, root: Any) -> Any:
    """Whether a value is valid; None where the schema cannot be taken out of its document."""
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
    """What a `$ref` inside a document points to: a JSON pointer, or the name of an anchor.

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
    """Whether what is made for one of them never fits the other."""
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
    # The grammar writes none but the properties that are named.
    return (
        bool(mine and yours)
        and not (one.get("additionalProperties") or other.get("additionalProperties"))
        and not set(other.get("required", ())) <= {*mine, *one.get("required", ())}
        and not set(one.get("required", ())) <= {*yours, *other.get("required", ())}
    )


def listed_in(schema: Mapping[str, Any]) -> list[Any] | None:
    """The values of `const` or `enum`; None if it has neither."""
    return [schema["const"]] if "const" in schema else schema.get("enum")


def json_types(value: Any) -> set[str]:
    """The JSON Schema types of a value."""
    if isinstance(value, bool):
        return {"boolean"}
    for kind, name in ((dict, "object"), (list, "array"), (str, "string"), (type(None), "null")):
        if isinstance(value, kind):
            return {name}
    return {"number", "integer"} if float(value).is_integer() else {"number"}
