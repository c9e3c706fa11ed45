"""Checks requests to Ollama against Ollama's own OpenAPI file, in which an unknown name is a mistake too.

Ollama drops names that it does not know silently, so a misspelt one would never be noticed otherwise.
"""

from __future__ import annotations

import json
from copy import deepcopy
from functools import cache
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from tests.servers.captures import DATA

__all__ = ["EXTRA_OPTIONS", "violations"]

INTEGER, NUMBER, BOOLEAN, STRING = ({"type": kind} for kind in ("integer", "number", "boolean", "string"))

EXTRA_OPTIONS: dict[str, dict[str, Any]] = {
    "num_keep": INTEGER, "typical_p": NUMBER, "repeat_penalty": NUMBER, "repeat_last_n": INTEGER,
    "presence_penalty": NUMBER, "frequency_penalty": NUMBER, "num_batch": INTEGER, "num_gpu": INTEGER,
    "main_gpu": INTEGER, "num_thread": INTEGER, "use_mmap": BOOLEAN, "draft_num_predict": INTEGER,
    # The file allows a bare string, the server answers 500 to it (capture err_option_stop_string).
    "stop": {"type": "array", "items": STRING},
}  # fmt: skip
"""Options that the server knows (its api/types.go) and the file lacks, or has more loosely than the server reads."""

EXTRA_FIELDS: dict[str, dict[str, dict[str, Any]]] = {
    "ChatRequest": {"truncate": BOOLEAN, "shift": BOOLEAN},
    "GenerateRequest": {"truncate": BOOLEAN, "shift": BOOLEAN},
    # A conversation's second turn needs them (capture chat_tools_second_turn; the server's api/types.go).
    "ChatMessage": {"thinking": STRING, "tool_name": STRING, "tool_call_id": STRING},
    "ToolCall": {"id": STRING},
}

# Go's time.ParseDuration; a bare "300" is refused by the server (capture err_keep_alive).
DURATION = {"type": "string", "pattern": r"^(0|-?(\d+(\.\d*)?(ns|us|µs|ms|s|m|h))+)$"}


def violations(method: str, path: str, body: bytes) -> list[str]:
    """What is wrong with this request; empty: nothing."""
    if path == "/" and method in {"GET", "HEAD"}:
        return []
    operation = _spec()["paths"].get(path, {}).get("get" if method == "HEAD" else method.lower())
    where = f"{method} {path}"
    if operation is None:
        return [f"{where}: no such operation in Ollama's OpenAPI file"]
    if "requestBody" not in operation:
        return [f"{where}: takes no body, was sent {body[:200]!r}"] if body else []
    try:
        value = json.loads(body)
    except ValueError as error:
        return [f"{where}: the body is no JSON: {error}"]
    reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    return [
        f"{where}: {_where(error.absolute_path)}{error.message[:500]}"
        for error in sorted(_validator(reference).iter_errors(value), key=lambda error: error.json_path)
    ]


def _where(path: Any) -> str:
    return "".join(f"{part}." for part in path).rstrip(".") + ": " if path else ""


@cache
def _spec() -> Any:
    return yaml.safe_load((DATA / "ollama-openapi.yaml").read_text(encoding="utf-8"))


@cache
def _validator(reference: str) -> Draft202012Validator:
    schemas = deepcopy(_spec()["components"]["schemas"])
    schemas["ModelOptions"]["properties"].update(EXTRA_OPTIONS)
    for name, extra in EXTRA_FIELDS.items():
        schemas[name]["properties"].update(extra)
    schemas["ToolCall"]["properties"]["function"]["properties"]["index"] = INTEGER
    for schema in schemas.values():
        _close(schema)
        if "keep_alive" in schema.get("properties", {}):
            schema["properties"]["keep_alive"] = {"anyOf": [DURATION, NUMBER]}
    return Draft202012Validator({"$ref": reference, "components": {"schemas": schemas}})


def _close(schema: Any) -> None:
    """Allow no other names than those listed, at any depth; an object without a list of names stays open."""
    if isinstance(schema, list):
        for item in schema:
            _close(item)
    if isinstance(schema, dict):
        if isinstance(schema.get("properties"), dict):
            schema["additionalProperties"] = False
        for value in schema.values():
            _close(value)
