"""From pydantic's errors to problems of the file: which key, what is allowed there, and the way out."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, NamedTuple

from pydantic import ValidationError

from miner.config.file.json_schema import Node, allowed, child, keys_of, options_of, raw_schema, resolved
from miner.config.file.lines import KeyPath
from miner.config.file.problems import MOST, Problem, nearest, value_at

BACKEND_GROUP = "inference.backends"
"""Entry points of backends."""
_NOT_KINDS = frozenset({"pool"})
"""Backends that a file makes, and cannot have."""
_OTHER_WORDS = {
    "alias": "aliases", "api_base": "url", "api_key": "key", "base_url": "url", "address": "url", "endpoint": "url",
    "cmd": "command", "args": "command", "workdir": "directory", "cwd": "directory", "environment": "env",
    "ctx_size": "context", "context_size": "context", "context_length": "context", "n_ctx": "context",
    "num_ctx": "context", "max_model_len": "context", "parallel": "slots", "np": "slots", "n_parallel": "slots",
    "ngl": "n_gpu_layers", "gpu_layers": "n_gpu_layers", "num_gpu": "n_gpu_layers", "fa": "flash_attn",
    "flash_attention": "flash_attn", "ttl": "keep_alive", "idle_timeout": "keep_alive", "path": "file",
    "model_path": "file", "gguf": "file", "model": "file", "repo": "hub", "hf": "hub", "hf_repo": "hub",
    "jinja_template": "chat_template", "chat_template_file": "chat_template", "system_prompt": "system",
    "draft": "speculation", "draft_model": "speculation", "pinned": "pin", "persistent": "pin", "prices": "price",
    "api_keys": "keys", "options": "flags", "swap": "exclusive", "members": "models", "health": "ready",
    "check_endpoint": "ready", "type": "kind", "provider": "kind", "engine": "kind",
}  # fmt: skip
"""Words of other programs, and of settings, for keys of the file."""
_TABLES = {"Backend": "[backends.NAME]", "Model": "[models.NAME]", "Group": "[groups.NAME]", "Limits": "[limits]",
           "Sampling": "sampling = { ... }"}  # fmt: skip


ONE_TABLE = "Tables have single brackets here, and a name each, such as [models.small]."


class _Place(NamedTuple):
    """Where an error of pydantic's is."""

    path: KeyPath
    node: Node | None
    """What may stand there; None: nothing."""
    parent: Node
    """The table around it."""
    is_name: bool = False
    """Whether the name itself is wrong, not what it holds."""


def known_kinds() -> list[str]:
    """The kinds that a backend can have: the entry points, loaded or not."""
    return sorted({point.name for point in entry_points(group=BACKEND_GROUP)} - _NOT_KINDS)


def problems_of(error: ValidationError, content: Mapping[str, Any], written: Mapping[str, Any]) -> list[Problem]:
    """The problems of a file, one for each key.

    Args:
        content: the file with its variables replaced.
        written: the file as it is written.
    """
    found: dict[KeyPath, Problem] = {}
    for each in error.errors(include_url=False):
        if len(found) > 2 * MOST:
            break  # more are not shown, and each takes its time
        place = _place(each["loc"], content)
        if place is None:
            continue
        problem = _problem(each, place, value_at(content, place.path), value_at(written, place.path))
        found.setdefault((*problem.path, problem.message if problem.path != place.path else ""), problem)
    return list(found.values())


def _place(location: tuple[str | int, ...], content: Mapping[str, Any]) -> _Place | None:
    """What an error's location means. None: it is about a kind of value that does not stand there, of several that may;
    pydantic names the kind in the location.
    """
    node = parent = raw_schema()
    path: KeyPath = ()
    if location and location[-1] == "[key]":
        return _Place(location[:-1], node, parent, is_name=True)
    for key in location:
        if "anyOf" in node:
            if not isinstance(value_at(content, path), dict):
                return _Place(path, node, parent)
            tables = [option for option in map(resolved, node["anyOf"]) if option.get("type") == "object"]
            if not tables:
                return _Place(path, node, parent)
            if tables[0].get("title") != key:
                return None
            node = parent = tables[0]
            continue
        parent, path = node, (*path, key)
        below = child(node, key)
        if below is None:
            return _Place(path, None, parent)
        node = below
    return _Place(path, node, parent)


def _problem(error: Any, place: _Place, value: Any, written: Any) -> Problem:
    kind, path, node = error["type"], place.path, place.node
    if place.is_name:
        return Problem(_message_of(error), path)
    if kind == "extra_forbidden" or node is None:
        return Problem("unknown key", path, hint=_hint_for_unknown(str(path[-1]), place))
    if kind == "missing":
        hint = f"Kinds: {', '.join(known_kinds())}." if path[-1] == "kind" else None
        return Problem(f"{path[-1]} is missing: must be {allowed(node)}", path[:-1], hint=hint)
    if kind == "value_error":
        return Problem(_message_of(error), path)
    if kind in ("string_too_short", "too_short"):
        return Problem("must not be empty", path)
    if kind == "string_too_long":
        return Problem(f"must have at most {error['ctx']['max_length']} characters", path)
    if kind == "finite_number":
        return Problem("must be a finite number", path)
    return Problem(f"must be {allowed(node)}", path, hint=_hint_for_value(value, written, node))


def _message_of(error: Any) -> str:
    return str(error["msg"]).removeprefix("Value error, ")


def _hint_for_value(value: Any, written: Any, node: Node) -> str | None:
    """What the value should rather be."""
    if options := options_of(node):
        return nearest(value, options)
    kind = node.get("type")
    if isinstance(value, str) and kind in ("integer", "number", "boolean"):
        if value != written:
            return "A variable is text: write the value itself."
        plain = value.strip().lower()
        fits = plain in ("true", "false") if kind == "boolean" else plain.lstrip("-").replace(".", "", 1).isdecimal()
        return f"Write it without quotes: {plain}" if fits else None
    if kind == "string" and isinstance(value, (int, float)) and not isinstance(value, bool):
        return "Write it in quotes."
    if kind == "object" and isinstance(value, list) and any(isinstance(each, dict) for each in value):
        return ONE_TABLE
    if kind == "array" and isinstance(value, str):
        return "Write it in brackets, each part in quotes of its own."
    return None


def _hint_for_unknown(name: str, place: _Place) -> str | None:
    known = keys_of(place.parent)
    plain = name.lower().replace("-", "_").lstrip("_")
    plain = _OTHER_WORDS.get(plain, plain) if _OTHER_WORDS.get(plain) in known else plain
    if plain in known:
        return f"Did you mean {plain}?"
    if hint := nearest(name, known):
        return hint
    title = place.parent.get("title")
    for other, table in _TABLES.items():
        if other != title and plain in keys_of(raw_schema()["$defs"][other]):
            return f"{plain} is a key of {table}."
    if title == "Model":
        return f'Any other option of llama-server: flags = {{ "{name.strip("-").replace("_", "-")}" = ... }}.'
    return f"Known: {', '.join(known)}." if known else None
