"""A JSON Schema translated into the subset of JSON Schema that llama.cpp converts to a grammar, in its server and in
Ollama's (common/json-schema-to-grammar.cpp): what is not in the subset is expressed otherwise where that is exact or
stricter, else reported with its place. Whatever the grammar lets through is valid.

The subset: `$ref` into the document, `anyOf`, `const`, `enum`, `type`, `properties` with `required` and
`additionalProperties`, `items` or a tuple of all `prefixItems`, `minItems`, `maxItems`, `pattern`, four `format`s,
`minLength`, `maxLength`, and bounds of integers; the first of them that the converter finds decides, it reads no other.
It does not support boolean schemas, references to the root or escapes in references, and reads an object without
`additionalProperties` as one that allows none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any, NamedTuple
from urllib.parse import unquote

from miner.core._typing import override
from miner.core.llms.schema.keywords import (
    ANYWHERE,
    FORMATS,
    MAX_BRANCHES,
    NEVER,
    OF_TYPE,
    TYPES,
    Schema,
    Unenforced,
    annotated,
    anything,
    checker,
    constraints,
    disjoint,
    resolve,
    same,
    types,
    union,
)
from miner.core.llms.schema.merge import merged
from miner.core.llms.schema.type_translator import TypeTranslator

_MAX_NODES = 20_000
_MAX_MERGE_DEPTH = 20
_MAX_REFERENCES = 30
"""References to references in one place."""


class _Conjunct(NamedTuple):
    """One of several schemas that must all hold."""

    own: Schema
    """The schema without its `allOf` and `$ref`."""
    source: Schema
    """The schema as it stands in the document."""


@dataclass
class Translator(TypeTranslator):
    """Translates schemas that are sent together. Their definitions share one namespace."""

    definitions: dict[str, Any] = field(default_factory=dict)
    """The translated schemas behind `#/$defs/NAME`."""
    unenforced: list[Unenforced] = field(default_factory=list)
    number_bounds: bool = False
    _root: Any = None
    _roots: int = 0
    _names: dict[tuple[int, str], str] = field(default_factory=dict)
    """Names of definitions, by document and reference."""
    _open: list[str] = field(default_factory=list)
    """References that are being followed, without an object or array in between."""
    _kept: list[Any] = field(default_factory=list)
    """Objects whose id is part of a definition's key must not be freed."""
    _nodes: int = 0
    _merge_depth: int = 0

    def translate(self, schema: Schema, path: str = "") -> Schema:
        """Translate one schema; its references point to `definitions`.

        Raises:
            ValueError: a reference points to nothing, or the schema is endless.
        """
        self._root = schema
        self._roots += 1
        try:
            translated = self._any(schema, path)
        except RecursionError:
            raise ValueError("it refers to itself without end") from None
        self.definitions = {name: one for name, one in self.definitions.items() if one is not NEVER}
        return translated

    def _any(self, schema: Schema, path: str) -> Schema:
        """Translate any schema."""
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
        if reference is not None and not (constraints(schema) and self._reads_siblings()):
            return annotated(self._reference(reference, path), schema)
        conjuncts = list(self._conjuncts(schema, path))
        if len(conjuncts) == 1 and conjuncts[0].source is schema:
            return annotated(self._plain(schema, path), schema)
        # As a definition: the merged schema may contain itself.
        self._kept.append(conjuncts)
        key = " & ".join(sorted({str(id(part.source)) for part in conjuncts}))
        own = [part.own for part in conjuncts]
        return annotated(self._definition(key, "joined", lambda: self._all_of(own, path)), schema)

    # References

    def _reads_siblings(self) -> bool:
        """Up to draft 7, keywords beside `$ref` are ignored."""
        draft = str(self._root.get("$schema", "")) if isinstance(self._root, Mapping) else ""
        return not any(f"draft-0{number}" in draft for number in (3, 4, 6, 7))

    def _reference(self, reference: str, path: str) -> Schema:
        steps = unquote(reference.removeprefix("#")).split("/")[1:]
        target_path = "".join(f".{step}" for step in steps)
        return self._definition(reference, reference, lambda: self._any(resolve(reference, self._root), target_path))

    def _definition(self, key: str, name: str, make: Callable[[], Schema]) -> Schema:
        """A reference to a definition, which is made once."""
        if key in self._open:
            return NEVER  # X is X or ...: this branch adds nothing
        known = self._names.get((self._roots, key))
        if known is None:
            known = self._names[self._roots, key] = self._unused_name(name)
            self.definitions[known] = None
            self._open.append(key)
            self.definitions[known] = make()
            self._open.pop()
        if self.definitions.get(known, NEVER) is NEVER:
            return NEVER
        return {"$ref": f"#/$defs/{known}"}

    def _unused_name(self, reference: str) -> str:
        last = unquote(reference).rsplit("/", 1)[-1].strip("#") or "root"
        stem = "".join(char if char.isascii() and (char.isalnum() or char in "-_") else "-" for char in last)
        name, number = stem, 1
        while name in self.definitions:
            number += 1
            name = f"{stem}-{number}"
        return name

    # allOf

    def _conjuncts(self, schema: Schema, path: str, depth: int = 0) -> Iterator[_Conjunct]:
        """The schemas that must all hold, without their `allOf` and `$ref`."""
        if depth > _MAX_REFERENCES:
            raise ValueError(f"{path or 'it'} refers to itself without end")
        if isinstance(schema, bool):
            yield _Conjunct(schema, schema)
            return
        own = {name: value for name, value in schema.items() if name not in ("allOf", "$ref", "$dynamicRef")}
        reference = schema.get("$ref", schema.get("$dynamicRef"))
        if reference is not None:
            yield from self._conjuncts(resolve(reference, self._root), path, depth + 1)
            if not self._reads_siblings():
                return
        for place, part in enumerate(schema.get("allOf", ())):
            yield from self._conjuncts(part, f"{path}.allOf[{place}]", depth + 1)
        if constraints(own) or (reference is None and "allOf" not in schema):
            yield _Conjunct(own, schema)

    def _all_of(self, parts: list[Schema], path: str) -> Schema:
        """Translate schemas without `allOf` and `$ref` that must all hold: their unions are multiplied out."""
        self._merge_depth += 1
        if self._merge_depth > _MAX_MERGE_DEPTH:
            raise ValueError(f"{path or 'it'} joins too many schemas, or itself without end")
        try:
            return self._product(parts, path)
        finally:
            self._merge_depth -= 1

    def _product(self, parts: list[Schema], path: str) -> Schema:
        if any(part is False for part in parts):
            return NEVER
        base: dict[str, Any] = {}
        unions: list[tuple[str, list[Schema]]] = []
        for part in parts:
            if part is not True:
                unions += [(name, part[name]) for name in ("anyOf", "oneOf") if name in part]
                own = {name: value for name, value in part.items() if name not in ("anyOf", "oneOf")}
                base = self._merged(base, own, path)
        if not unions:
            return self._plain(base, path)
        if math.prod(len(branches) for _, branches in unions) > MAX_BRANCHES:
            raise ValueError(f"{path or 'it'} joins more than {MAX_BRANCHES} alternatives")
        if any(name == "oneOf" and not self._exclusive(branches) for name, branches in unions):
            self._report("oneOf", path)
        results = []
        for choice in product(*(branches for _, branches in unions)):
            flat = [part.own for one in choice for part in self._conjuncts(one, path)]
            if constraints(base):
                flat = [base, *flat]
            results.append(self._any(flat[0], path) if len(flat) == 1 else self._all_of(flat, path))
        return union(results)

    def _merged(self, one: dict[str, Any], other: Mapping[str, Any], path: str) -> dict[str, Any]:
        return merged(one, other, lambda keyword: self._report(keyword, path, "twice in schemas that are joined"))

    # One schema by itself

    def _plain(self, schema: Schema, path: str) -> Schema:
        """Translate a schema without `$ref` and `allOf`."""
        if isinstance(schema, bool):
            return anything() if schema else NEVER
        if "anyOf" in schema or "oneOf" in schema:
            return self._union(schema, path)
        if "enum" in schema or "const" in schema:
            return self._values(schema, path)
        for name in ANYWHERE:
            if name in schema and not (name == "if" and "then" not in schema and "else" not in schema):
                self._report(name, path)
        kinds = self._kinds(schema)
        if not kinds:
            return NEVER
        if kinds == set(TYPES) - {"integer"} and not any(name in schema for names in OF_TYPE.values()
                                                         for name in names):  # fmt: skip
            return anything()
        return union([self._of_type(kind, schema, path) for kind in TYPES if kind in kinds])

    def _kinds(self, schema: Mapping[str, Any]) -> set[str]:
        """The types that are allowed; without `type`, those that its other keywords are about."""
        if "type" in schema:
            return types(schema["type"]) - ({"integer"} if "number" in types(schema["type"]) else set())
        about = {kind for kind, names in OF_TYPE.items() if any(name in schema for name in names)}
        if about == {"string"} and not any(name in schema for name in ("pattern", "minLength", "maxLength")):
            about = {"string"} if schema.get("format") in FORMATS else set()
        return about or set(TYPES) - {"integer"}

    def _of_type(self, kind: str, schema: Mapping[str, Any], path: str) -> Schema:
        makers = {
            "object": self._object, "array": self._array, "string": self._string, "integer": self._integer,
            "number": self._number,
        }  # fmt: skip
        return makers[kind](schema, path) if kind in makers else {"type": kind}

    def _union(self, schema: Mapping[str, Any], path: str) -> Schema:
        rest = {name: value for name, value in schema.items() if name not in ("anyOf", "oneOf")}
        if constraints(rest) or ("anyOf" in schema and "oneOf" in schema):
            return self._all_of([schema], path)
        keyword = "anyOf" if "anyOf" in schema else "oneOf"
        branches = list(schema[keyword])
        if keyword == "oneOf" and not self._exclusive(branches):
            # A property that distinguishes the branches may be optional: it is made required.
            names = self._summary(branches[0]).get("properties", {})
            with_name = [[{"allOf": [branch, {"required": [name]}]} for branch in branches] for name in names]
            branches = next((each for each in with_name if self._exclusive(each)), branches)
            if branches == schema[keyword]:
                self._report("oneOf", path, "more than one of them may hold")
        return union([self._any(branch, f"{path}.{keyword}[{place}]") for place, branch in enumerate(branches)])

    def _values(self, schema: Mapping[str, Any], path: str) -> Schema:
        """Translate `enum` or `const`: the values that the other keywords allow."""
        values = list(schema["enum"]) if "enum" in schema else [schema["const"]]
        if "enum" in schema and "const" in schema:
            values = [value for value in values if same(value, schema["const"])]
        rest = {name: value for name, value in schema.items() if name not in ("enum", "const")}
        if constraints(rest):
            allowed = checker(rest, self._root)
            if allowed is None:
                self._report("enum", path, "beside other keywords")
            else:
                values = [value for value in values if allowed(value)]
        if not values:
            return NEVER
        kind = {"type": schema["type"]} if isinstance(schema.get("type"), str) else {}
        return {**kind, "const": values[0]} if "const" in schema else {**kind, "enum": values}

    @override
    def _subschema(self, schema: Schema, path: str) -> Schema:
        kept, self._open = self._open, []
        translated = self._any(schema, path)
        self._open = kept
        return translated

    # oneOf

    def _exclusive(self, branches: list[Schema]) -> bool:
        """Whether a value is valid under one branch at most."""
        summaries = [self._summary(branch) for branch in branches]
        return all(disjoint(one, other) for place, one in enumerate(summaries) for other in summaries[place + 1 :])

    @override
    def _summary(self, schema: Schema, depth: int = 0) -> dict[str, Any]:
        if depth > 8 or not isinstance(schema, Mapping):
            return {}
        result: dict[str, Any] = {}
        for part in self._conjuncts(schema, "", depth):
            if isinstance(part.own, Mapping):
                result = merged(result, part.own, lambda keyword: None)
        properties = result.get("properties", {})
        if properties:
            result["properties"] = {name: self._summary(inner, depth + 4) for name, inner in properties.items()}
        return result

    @override
    def _report(self, keyword: str, path: str, why: str = "") -> None:
        unenforced = Unenforced(keyword, f"{path}.{keyword}", why)
        if unenforced not in self.unenforced:
            self.unenforced.append(unenforced)
