"""The JSON Schema of `miner.toml`, and what it allows in words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from copy import deepcopy
from functools import cache
from typing import Any

from miner.config.file.schema import ConfigFile

Node = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_VARIABLE = r"\$\{"
"""In what any text may have, before variables are replaced."""
_KINDS = {
    "string": "text in quotes", "integer": "an integer", "number": "a number", "boolean": "true or false",
    "array": "a list", "object": "a table",
}  # fmt: skip
_PLURALS = {
    "text in quotes": "texts in quotes", "an integer": "integers", "a number": "numbers", "a table": "tables",
}  # fmt: skip


@cache
def raw_schema() -> Node:
    """The schema of the file with its variables replaced; without null, which TOML does not have."""
    schema: Node = _without_null(ConfigFile.model_json_schema())
    return schema


def published_schema() -> Node:
    """The schema of the file as it is written, for editors and other programs: any text may have variables."""
    schema = _with_variables(deepcopy(raw_schema()))
    described: Node = {
        "$schema": DIALECT,
        "title": "miner.toml",
        "description": "What a node of miner serves: backends, models and groups of models.",
        **{key: value for key, value in schema.items() if key not in ("title", "description")},
    }
    return described


def _without_null(node: Any) -> Any:
    if isinstance(node, list):
        return [_without_null(each) for each in node]
    if not isinstance(node, dict):
        return node
    known = {key: _without_null(value) for key, value in node.items()}
    if known.get("default", ...) is None or (isinstance(known.get("default"), dict) and known["default"]):
        del known["default"]
    if isinstance(known.get("anyOf"), list):
        options = [option for option in known["anyOf"] if option != {"type": "null"}]
        known["anyOf"] = options
        if len(options) == 1:
            del known["anyOf"]
            known = {**options[0], **known}
    if "patternProperties" in known:
        known.setdefault("additionalProperties", False)
    if isinstance(known.get("title"), str) and "type" in known and known["type"] != "object":
        del known["title"]  # the key again, in other letters
    return known


def _with_variables(node: Any) -> Any:
    if isinstance(node, list):
        return [_with_variables(each) for each in node]
    if not isinstance(node, dict):
        return node
    known: Node = {}
    for key, value in node.items():
        if key == "patternProperties":  # of names, which have no variables
            known[key] = {pattern: _with_variables(each) for pattern, each in value.items()}
        else:
            known[key] = value if key in ("default", "enum", "required", "x-allowed") else _with_variables(value)
    if "x-allowed" in known:
        del known["x-allowed"]
    if isinstance(known.get("pattern"), str):
        known["pattern"] = f"{known['pattern']}|{_VARIABLE}"
    if "enum" in known and known.get("type") == "string":
        variable = {"type": "string", "pattern": _VARIABLE}
        known = {
            **{key: value for key, value in known.items() if key not in ("enum", "type")},
            "anyOf": [{"type": "string", "enum": known["enum"]}, variable],
        }
    return known


def resolved(node: Node) -> Node:
    """The node that a reference means."""
    while "$ref" in node:
        node = raw_schema()["$defs"][node["$ref"].rpartition("/")[2]]
    return node


def child(node: Node, key: str | int) -> Node | None:
    """The schema of a key or element; None where there is none."""
    node = resolved(node)
    if isinstance(key, int):
        items = node.get("items")
        return resolved(items) if isinstance(items, dict) else None
    if key in node.get("properties", {}):
        return resolved(node["properties"][key])
    for pattern, each in node.get("patternProperties", {}).items():
        if re.search(pattern, key):
            return resolved(each)
    extra = node.get("additionalProperties")
    return resolved(extra) if isinstance(extra, dict) else None


def keys_of(node: Node) -> list[str]:
    """The keys that a table may have; none where it may have any."""
    return list(resolved(node).get("properties", {}))


def options_of(node: Node) -> list[str]:
    """The texts that may stand there, where only certain ones may."""
    return [value for value in resolved(node).get("enum", ()) if isinstance(value, str)]


def allowed(node: Node) -> str:
    """What may stand there, such as "an integer from 1 to 256"."""
    node = resolved(node)
    if "x-allowed" in node:
        return str(node["x-allowed"])
    if "anyOf" in node:
        return _either([allowed(option) for option in node["anyOf"]])
    if "enum" in node:
        return _either([f'"{value}"' if isinstance(value, str) else str(value) for value in node["enum"]])
    if "const" in node:
        return "false" if node["const"] is False else str(node["const"])
    kind = str(node.get("type", ""))
    if kind == "array" and isinstance(node.get("items"), dict):
        if "x-allowed" in resolved(node["items"]):
            return f"a list; each {allowed(node['items'])}"
        options = resolved(node["items"]).get("anyOf", [node["items"]])
        return f"a list of {_either([_PLURALS.get(each, each) for each in map(allowed, options)])}"
    return f"{_KINDS.get(kind, 'a value')}{_bounds(node)}"


def _bounds(node: Node) -> str:
    least, most, above = node.get("minimum"), node.get("maximum"), node.get("exclusiveMinimum")
    if above is not None:
        return f" above {above:g}" + (f", at most {most:g}" if most is not None else "")
    if least is not None and most is not None:
        return f" from {_number(least)} to {_number(most)}"
    if least is not None:
        return f" of at least {_number(least)}"
    if most is not None:
        return f" of at most {_number(most)}"
    if node.get("pattern", "").startswith("^https?"):
        return ', such as "http://localhost:8000"'
    if node.get("pattern") == "^/":
        return " that begins with /"
    return ""


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)


def _either(options: Sequence[str]) -> str:
    unique = list(dict.fromkeys(options))
    return unique[0] if len(unique) == 1 else f"{', '.join(unique[:-1])} or {unique[-1]}"
