"""A JSON Schema in the part of JSON Schema that llama.cpp's converter turns into a grammar, in its server and in
Ollama's (common/json-schema.cpp, json-schema-to-grammar.cpp): what it lacks is said otherwise where that is exact or
narrower, and told by its place where it cannot be said. Whatever the grammar lets through is valid.

The converter takes `$ref` into the document, `anyOf`, `const`, `enum`, `type`, `properties` with `required` and
`additionalProperties`, `items` or a tuple of all `prefixItems`, `minItems`, `maxItems`, `pattern`, four `format`s,
`minLength`, `maxLength`, and bounds of integers; the first of them that it finds decides, the others are not read. It
knows no boolean schemas, no reference to the root, no escapes in references, and reads an object without
`additionalProperties` as one without any others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any, NamedTuple
from urllib.parse import unquote

from miner.core._typing import override
from miner.core.llms.schema.containers import Containers
from miner.core.llms.schema.keywords import (
    ANNOTATIONS,
    ANYWHERE,
    CHECKED,
    FORMATS,
    MAX_BRANCHES,
    NEVER,
    OF_TYPE,
    TYPES,
    Lack,
    Schema,
    annotated,
    anything,
    checker,
    constraints,
    disjoint,
    is_never,
    matches,
    resolve,
    same,
    types,
    union,
)
from miner.core.llms.schema.scalars import Scalars

__all__ = ["Lack", "Translator", "is_never"]

_MAX_NODES = 20_000
_MAX_JOINS = 20
"""Inside of each other."""


class _Part(NamedTuple):
    """One of several schemas that must all hold."""

    own: Schema
    """Without its `allOf` and `$ref`."""
    whole: Schema
    """As it stands in the document."""


@dataclass
class Translator(Scalars, Containers):
    """Translates schemas that are sent together: their definitions have names of their own."""

    definitions: dict[str, Any] = field(default_factory=dict)
    lacks: list[Lack] = field(default_factory=list)
    number_bounds: bool = False
    """Whether bounds of numbers may stay, for who writes the grammar itself."""
    _root: Any = None
    _roots: int = 0
    _names: dict[tuple[int, str], str] = field(default_factory=dict)
    _open: list[str] = field(default_factory=list)
    """References that are being followed and that no object or array stands between."""
    _kept: list[Any] = field(default_factory=list)
    """What is known by its id has to stay."""
    _nodes: int = 0
    _joins: int = 0

    def translate(self, schema: Schema, path: str = "") -> Schema:
        """The schema, whose references point to `#/$defs/...`: see `definitions`.

        Raises:
            ValueError: it refers to nothing, or grows beyond bounds.
        """
        self._root = schema
        self._roots += 1
        try:
            made = self._node(schema, path)
        except RecursionError:
            raise ValueError("it refers to itself without end") from None
        self.definitions = {name: one for name, one in self.definitions.items() if one is not NEVER}
        return made

    # A schema

    def _node(self, schema: Schema, path: str) -> Schema:
        self._nodes += 1
        if self._nodes > _MAX_NODES:
            raise ValueError("it grows beyond bounds once its parts are joined")
        if schema is True or schema == {}:
            return anything()
        if schema is False:
            return NEVER
        if not isinstance(schema, Mapping):
            raise ValueError(f"{path or 'it'} is no schema")
        reference = schema.get("$ref", schema.get("$dynamicRef", schema.get("$recursiveRef")))
        if reference is not None and not (constraints(schema) and self._siblings_count()):
            return annotated(self._reference(reference, path), schema)
        parts = list(self._flattened(schema, path))
        if len(parts) == 1 and parts[0].whole is schema:
            return self._annotated_plain(schema, path)
        # Under a name: what is joined may hold itself.
        self._kept.append(parts)
        key = " & ".join(sorted({str(id(part.whole)) for part in parts}))
        return annotated(self._definition(key, "joined", lambda: self._joined([p.own for p in parts], path)), schema)

    def _annotated_plain(self, schema: Mapping[str, Any], path: str) -> Schema:
        return annotated(self._plain(schema, path), schema)

    def _siblings_count(self) -> bool:
        """Up to draft 7, what stands beside a reference is not read."""
        declared = str(self._root.get("$schema", "")) if isinstance(self._root, Mapping) else ""
        return not any(f"draft-0{number}" in declared for number in (3, 4, 6, 7))

    def _reference(self, reference: str, path: str) -> Schema:
        steps = unquote(reference.removeprefix("#")).split("/")[1:]
        place = "".join(f".{step}" for step in steps)
        return self._definition(reference, reference, lambda: self._node(resolve(reference, self._root), place))

    def _definition(self, key: str, name: str, make: Callable[[], Schema]) -> Schema:
        """A reference to what `make` makes, which is made once."""
        if key in self._open:
            return NEVER  # X is X or ...: this branch adds nothing
        known = self._names.get((self._roots, key))
        if known is None:
            known = self._names[self._roots, key] = self._named(name)
            self.definitions[known] = None
            self._open.append(key)
            self.definitions[known] = make()
            self._open.pop()
        if self.definitions.get(known, NEVER) is NEVER:
            return NEVER
        return {"$ref": f"#/$defs/{known}"}

    def _named(self, reference: str) -> str:
        last = unquote(reference).rsplit("/", 1)[-1].strip("#") or "root"
        stem = "".join(char if char.isascii() and (char.isalnum() or char in "-_") else "-" for char in last)
        name, number = stem, 1
        while name in self.definitions:
            number += 1
            name = f"{stem}-{number}"
        return name

    # Schemas that hold together

    def _flattened(self, schema: Schema, path: str, depth: int = 0) -> Iterator[_Part]:
        """The schemas that must all hold, each without `allOf` and `$ref`."""
        if depth > 30:
            raise ValueError(f"{path or 'it'} refers to itself without end")
        if isinstance(schema, bool):
            yield _Part(schema, schema)
            return
        own = {name: value for name, value in schema.items() if name not in ("allOf", "$ref", "$dynamicRef")}
        reference = schema.get("$ref", schema.get("$dynamicRef"))
        if reference is not None:
            yield from self._flattened(resolve(reference, self._root), path, depth + 1)
            if not self._siblings_count():
                return
        for place, part in enumerate(schema.get("allOf", ())):
            yield from self._flattened(part, f"{path}.allOf[{place}]", depth + 1)
        if constraints(own) or (reference is None and "allOf" not in schema):
            yield _Part(own, schema)

    def _joined(self, parts: list[Schema], path: str) -> Schema:
        """All of these as one."""
        self._joins += 1
        if self._joins > _MAX_JOINS:
            raise ValueError(f"{path or 'it'} joins too many schemas, or itself without end")
        try:
            return self._all_of(parts, path)
        finally:
            self._joins -= 1

    def _all_of(self, parts: list[Schema], path: str) -> Schema:
        if any(part is False for part in parts):
            return NEVER
        merged: dict[str, Any] = {}
        unions: list[tuple[str, list[Schema]]] = []
        parts = [part for part in parts if part is not True]
        for part in parts:
            unions += [(name, part[name]) for name in ("anyOf", "oneOf") if name in part]
        alone = [{name: value for name, value in part.items() if name not in ("anyOf", "oneOf")} for part in parts]
        for part in alone:
            merged = self._merged(merged, part, path)
        if not unions:
            return self._plain(merged, path)
        if math.prod(len(branches) for _, branches in unions) > MAX_BRANCHES:
            raise ValueError(f"{path or 'it'} joins more than {MAX_BRANCHES} alternatives")
        if any(name == "oneOf" for name, _ in unions):
            for name, branches in unions:
                if name == "oneOf" and not self._apart(branches):
                    self._lack("oneOf", path)
        made = []
        for choice in product(*(branches for _, branches in unions)):
            flat = [part.own for one in choice for part in self._flattened(one, path)]
            made.append(self._joined([merged, *flat], path) if constraints(merged) else self._node_of(flat, path))
        return union(made)

    def _node_of(self, parts: list[Schema], path: str) -> Schema:
        return self._joined(parts, path) if len(parts) != 1 else self._node(parts[0], path)

    def _merged(self, one: dict[str, Any], other: Mapping[str, Any], path: str) -> dict[str, Any]:
        """Two schemas without `allOf`, `$ref` and unions as one."""
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
                result["enum"] = [item for item in result["enum"] if any(same(item, other) for other in value)]
            elif name == "const":
                result["enum"] = []
            elif name == "required":
                result["required"] = [*result["required"], *(item for item in value if item not in result["required"])]
            elif name in ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties", "minContains"):
                result[name] = max(result[name], value)
            elif name in ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"):
                result[name] = min(result[name], value)
            elif name == "uniqueItems":
                result[name] = bool(result[name] or value)
            elif name in ("items", "propertyNames") and not isinstance(value, list):
                result[name] = {"allOf": [result[name], value]}
            elif name not in ("properties", "additionalProperties", *ANNOTATIONS) and name in CHECKED:
                self._lack(name, path, "twice in schemas that are joined")
        self._join_properties(result, one, other)
        return result

    def _join_properties(self, result: dict[str, Any], one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
        """Each property under all that either says of it."""
        if not any(name in part for part in (one, other) for name in ("properties", "additionalProperties")):
            return
        properties: dict[str, Any] = {}
        for name in [*one.get("properties", {}), *other.get("properties", {})]:
            if name in properties:
                continue
            said = [
                part["properties"][name] if name in part.get("properties", {}) else part["additionalProperties"]
                for part in (one, other)
                if name in part.get("properties", {}) or ("additionalProperties" in part and not matches(part, name))
            ]
            properties[name] = said[0] if len(said) == 1 or said[0] == said[1] else {"allOf": said}
        if properties:
            result["properties"] = properties
        rest = [part["additionalProperties"] for part in (one, other) if "additionalProperties" in part]
        if rest:
            result["additionalProperties"] = rest[0] if len(rest) == 1 or rest[0] == rest[1] else {"allOf": rest}

    # One schema by itself

    def _plain(self, schema: Schema, path: str) -> Schema:
        """A schema without `$ref` and `allOf`."""
        if isinstance(schema, bool):
            return anything() if schema else NEVER
        if "anyOf" in schema or "oneOf" in schema:
            return self._unions(schema, path)
        if "enum" in schema or "const" in schema:
            return self._values(schema, path)
        for name in ANYWHERE:
            if name in schema and not (name == "if" and "then" not in schema and "else" not in schema):
                self._lack(name, path)
        kinds = self._kinds(schema)
        if not kinds:
            return NEVER
        if kinds == set(TYPES) - {"integer"} and not any(name in schema for names in OF_TYPE.values()
                                                         for name in names):  # fmt: skip
            return anything()
        made = [self._of_type(kind, schema, path) for kind in TYPES if kind in kinds]
        return union(made)

    def _kinds(self, schema: Mapping[str, Any]) -> set[str]:
        """The types that may come; where none is named, those of which something is said."""
        if "type" in schema:
            return types(schema["type"]) - ({"integer"} if "number" in types(schema["type"]) else set())
        named = {kind for kind, names in OF_TYPE.items() if any(name in schema for name in names)}
        if named == {"string"} and not any(name in schema for name in ("pattern", "minLength", "maxLength")):
            named = {"string"} if schema.get("format") in FORMATS else set()
        return named or set(TYPES) - {"integer"}

    def _unions(self, schema: Mapping[str, Any], path: str) -> Schema:
        rest = {name: value for name, value in schema.items() if name not in ("anyOf", "oneOf")}
        if constraints(rest) or ("anyOf" in schema and "oneOf" in schema):
            return self._joined([schema], path)
        word = "anyOf" if "anyOf" in schema else "oneOf"
        branches = list(schema[word])
        if word == "oneOf" and not self._apart(branches):
            # A field that tells them apart, but has a default: it has to come, then.
            names = self._shape(branches[0]).get("properties", {})
            told = [[{"allOf": [branch, {"required": [name]}]} for branch in branches] for name in names]
            branches = next((each for each in told if self._apart(each)), branches)
            if branches == schema[word]:
                self._lack("oneOf", path, "more than one of them may hold")
        return union([self._node(branch, f"{path}.{word}[{place}]") for place, branch in enumerate(branches)])

    def _values(self, schema: Mapping[str, Any], path: str) -> Schema:
        """The values that are listed, those of them that all the rest allows."""
        values = list(schema["enum"]) if "enum" in schema else [schema["const"]]
        if "enum" in schema and "const" in schema:
            values = [value for value in values if same(value, schema["const"])]
        rest = {name: value for name, value in schema.items() if name not in ("enum", "const")}
        if constraints(rest):
            allowed = checker(rest, self._root)
            if allowed is None:
                self._lack("enum", path, "beside other keywords")
            else:
                values = [value for value in values if allowed(value)]
        if not values:
            return NEVER
        if "const" in schema:
            return {**({"type": schema["type"]} if isinstance(schema.get("type"), str) else {}), "const": values[0]}
        return {**({"type": schema["type"]} if isinstance(schema.get("type"), str) else {}), "enum": values}

    def _of_type(self, kind: str, schema: Mapping[str, Any], path: str) -> Schema:
        match kind:
            case "object":
                return self._object(schema, path)
            case "array":
                return self._array(schema, path)
            case "string":
                return self._string(schema, path)
            case "integer":
                return self._integer(schema, path)
            case "number":
                return self._number(schema, path)
        return {"type": kind}

    @override
    def _inner(self, schema: Schema, path: str) -> Schema:
        """What stands inside an object or array."""
        kept, self._open = self._open, []
        made = self._node(schema, path)
        self._open = kept
        return made

    # Alternatives of which one alone may hold

    def _apart(self, branches: list[Schema]) -> bool:
        resolved = [self._shape(branch) for branch in branches]
        return all(disjoint(one, other) for place, one in enumerate(resolved) for other in resolved[place + 1 :])

    @override
    def _shape(self, schema: Schema, depth: int = 0) -> dict[str, Any]:
        """What tells a schema from another: its types, values, properties."""
        if depth > 8 or not isinstance(schema, Mapping):
            return {}
        merged: dict[str, Any] = {}
        lacks = list(self.lacks)
        for part in self._flattened(schema, "", depth):
            if isinstance(part.own, Mapping):
                merged = self._merged(merged, part.own, "")
        self.lacks = lacks
        properties = merged.get("properties", {})
        if properties:
            merged["properties"] = {name: self._shape(inner, depth + 4) for name, inner in properties.items()}
        return merged

    @override
    def _lack(self, keyword: str, path: str, why: str = "") -> None:
        lack = Lack(keyword, f"{path}.{keyword}", why)
        if lack not in self.lacks:
            self.lacks.append(lack)
