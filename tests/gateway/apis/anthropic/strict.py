"""A strict reading of bodies by the types of the official `anthropic` package, which itself takes nearly anything."""

from __future__ import annotations

import json
from typing import Any

from anthropic import BaseModel
from pydantic import TypeAdapter

__all__ = ["strict"]

_MAY_LACK = {
    "deprecated_at", "retires_at", "estimated_tokens", "fallback_credit", "input_transformations", "toolset_name",
    "allowed_fallback_models", "line",
}  # fmt: skip
"""Fields that Anthropic's own server leaves out, or that the type packages of other languages have as optional."""


def strict(kind: Any, raw: bytes | str) -> Any:
    """The body as this type: without conversions, with every field of the type, and without any other."""
    value = TypeAdapter(kind).validate_json(raw, strict=True)
    _check(value, json.loads(raw), getattr(kind, "__name__", str(kind)))
    return value


def _check(value: Any, body: Any, where: str) -> None:
    if isinstance(value, list):
        for place, (item, part) in enumerate(zip(value, body, strict=True)):
            _check(item, part, f"{where}[{place}]")
    elif isinstance(value, BaseModel):
        fields = type(value).model_fields
        unknown = set(body) - set(fields)
        missing = set(fields) - set(body) - _MAY_LACK
        assert not unknown, f"{where}: fields that {type(value).__name__} does not have: {sorted(unknown)}"
        assert not missing, f"{where}: fields of {type(value).__name__} that are missing: {sorted(missing)}"
        for name in set(fields) & set(body):
            _check(getattr(value, name), body[name], f"{where}.{name}")
