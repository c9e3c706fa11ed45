"""A GBNF grammar for a schema of the subset that `translate` makes. llama.cpp converts such a schema itself, but not
the bounds of numbers; and some builds read the schema on the completions route in another way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from miner.core.llms.schema.gbnf_numbers import number_rule

_BASE = r"""
space ::= | " " | "\n"{1,2} [ \t]{0,20}
char ::= [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-bA-Be-fE-F] [0-9a-fA-F]{3} | "u" [cdCD] [0-7] [0-9a-fA-F]{2})
string ::= "\"" char* "\""
integral ::= "0" | [1-9] [0-9]{0,15}
integer ::= "-"? integral
number ::= "-"? integral ("." [0-9]{1,16})? ([eE] [-+]? [0-9] [0-9]?)?
boolean ::= "true" | "false"
null ::= "null"
value ::= object | array | string | number | boolean | null
object ::= "{" space ( string space ":" space value ( "," space string space ":" space value )* )? space "}"
array ::= "[" space ( value ( "," space value )* )? space "]"
date ::= "\"" day "\""
day ::= [0-9]{4} "-" ( "0" [1-9] | "1" [0-2] ) "-" ( "0" [1-9] | "1" [0-9] | "2" [0-8] )
clock ::= ( [01] [0-9] | "2" [0-3] ) ":" [0-5] [0-9] ":" [0-5] [0-9] ( "." [0-9]{3} )? ( "Z" | [+-] ( [01] [0-9] | "2" [0-3] ) ":" [0-5] [0-9] )
time ::= "\"" clock "\""
date-time ::= "\"" day "T" clock "\""
uuid ::= "\"" [0-9a-fA-F]{8} "-" [0-9a-fA-F]{4} "-" [0-9a-fA-F]{4} "-" [0-9a-fA-F]{4} "-" [0-9a-fA-F]{12} "\""
"""  # noqa: E501


def grammar_of(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """Return a grammar of which each text is valid JSON under the schema."""
    writer = _Writer()
    for name, definition in definitions.items():
        writer.rules[f"def-{_safe(name)}"] = writer.expression(definition)
    root = writer.expression(schema)
    rules = "\n".join(f"{name} ::= {rule}" for name, rule in writer.rules.items())
    return f"root ::= {root}\n{rules}{_BASE}"


def _safe(name: str) -> str:
    """The text as part of a rule's name: letters, digits and hyphens."""
    return re.sub(r"[^a-zA-Z0-9]", lambda found: f"-{ord(found.group()):x}-", name)


class _Writer:
    def __init__(self) -> None:
        self.rules: dict[str, str] = {}

    def _rule(self, expression: str) -> str:
        name = f"r{len(self.rules)}"
        self.rules[name] = expression
        return name

    def expression(self, schema: Mapping[str, Any]) -> str:
        """The schema as the name of a rule, or as a literal."""
        if "$ref" in schema:
            return f"def-{_safe(schema['$ref'].removeprefix('#/$defs/'))}"
        if "anyOf" in schema:
            return self._rule(" | ".join(self.expression(branch) for branch in schema["anyOf"]))
        if "const" in schema:
            return _json_literal(schema["const"])
        if "enum" in schema:
            return self._rule(" | ".join(_json_literal(value) for value in schema["enum"]))
        kind = schema["type"]
        if isinstance(kind, list):
            return self._rule(" | ".join(self.expression({**schema, "type": one}) for one in kind))
        match kind:
            case "object":
                return self._object(schema)
            case "array":
                return self._array(schema)
            case "string":
                return self._string(schema)
            case "integer" | "number":
                rule = number_rule(schema, whole=kind == "integer")
                return str(kind) if rule is None else self._rule(rule)
        return str(kind)

    def _object(self, schema: Mapping[str, Any]) -> str:
        properties, rest = schema.get("properties", {}), schema.get("additionalProperties")
        if not properties and rest in (None, True) and "properties" not in schema:
            return "object"
        required = [name for name in properties if name in schema.get("required", ())]
        optional = [name for name in properties if name not in required]
        pairs = {
            name: self._rule(f'{_json_literal(name)} space ":" space {self.expression(properties[name])}')
            for name in properties
        }
        first = ' "," space '.join(pairs[name] for name in required)
        # From the last to the first: each optional pair may be left out, with those behind it still to come.
        tail = ""
        if rest:
            value = "value" if rest is True else self.expression(rest)
            key = self._rule(_other_strings(list(properties))) if properties else "string"
            other = self._rule(f'{key} space ":" space {value}')
            tail = self._rule(f'( "," space {other} )*')
            begins = [f"{other} {tail}"]
        else:
            begins = []
        for name in reversed(optional):
            begins.insert(0, f"{pairs[name]} {tail}")
            tail = self._rule(f'( "," space {pairs[name]} )? {tail}')
        inner = f"{first} {tail}" if required else f"( {' | '.join(begins)} )?" if begins else ""
        return self._rule(f'"{{" space {inner} space "}}"')

    def _array(self, schema: Mapping[str, Any]) -> str:
        if "prefixItems" in schema:
            items = ' "," space '.join(self.expression(part) for part in schema["prefixItems"])
            return self._rule(f'"[" space {items} space "]"')
        low, high = schema.get("minItems", 0), schema.get("maxItems")
        if high == 0:
            return self._rule('"[" space "]"')
        item = self.expression(schema["items"]) if "items" in schema else "value"
        more = self._rule(f'"," space {item}')
        count = f"{{{max(low - 1, 0)},{'' if high is None else high - 1}}}"
        inner = f"{item} {more}{count}"
        return self._rule(f'"[" space {inner if low else f"( {inner} )?"} space "]"')

    def _string(self, schema: Mapping[str, Any]) -> str:
        if "pattern" in schema:
            return self._rule(f'"\\"" ( {_pattern(schema["pattern"])} ) "\\""')
        if schema.get("format") in ("date", "time", "date-time", "uuid"):
            return str(schema["format"])
        low, high = schema.get("minLength", 0), schema.get("maxLength")
        if not low and high is None:
            return "string"
        return self._rule(f'"\\"" char{{{low},{"" if high is None else high}}} "\\""')


def _json_literal(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _pattern(pattern: str) -> str:
    """A pattern of `pattern` in GBNF, where characters outside of classes are literals in quotation marks."""
    out, inside, at = [], False, 1
    while at < len(pattern) - 1:
        char = pattern[at]
        if char == "\\":
            pair = pattern[at : at + 2]
            out.append(pair if inside else f'"{pair}"')
            at += 2
            continue
        if not inside and char not in "[]()|*+?{},0123456789" and char.isalnum():
            char = f'"{char}"'
        inside = char == "[" or (inside and char != "]")
        out.append(char)
        at += 1
    return "".join(out)


def _other_strings(names: list[str]) -> str:
    """Any string but these, as a trie; escaped spellings of a name are not excluded."""
    tree: dict[str, Any] = {}
    for name in names:
        node = tree
        for char in name:
            if char in '"\\' or ord(char) < 0x20:
                break
            node = node.setdefault(char, {})
        else:
            node[""] = {}
    return f'"\\"" {_other(tree)} "\\""'


def _other(tree: Mapping[str, Any]) -> str:
    chars = [char for char in tree if char]
    branches = [f"[{_class_char(char)}] {_other(tree[char])}" for char in chars]
    taken = "".join(_class_char(char) for char in chars)
    branches.append(f'[^"\\\\\\x7F\\x00-\\x1F{taken}] char*')
    inner = f"( {' | '.join(branches)} )"
    return inner if "" in tree else f"{inner}?"


def _class_char(char: str) -> str:
    return f"\\U{ord(char):08X}"
