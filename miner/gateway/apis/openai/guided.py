"""vLLM's fields for structured output, the older ones that it has removed, and llama.cpp's, as `response_format`."""

from __future__ import annotations

import json
from typing import Any

from miner.errors import InvalidRequestError, UnsupportedFeatureError
from miner.gateway.apis.openai.schema import SamplingParams
from miner.gateway.body_structure import MAX_SCHEMA, bounded

_GUIDED = ("guided_json", "guided_regex", "guided_choice", "guided_grammar")
_MAX_CHOICES = 1000


def response_format(body: SamplingParams) -> tuple[dict[str, Any], str] | None:
    """The output format and the client's field for it; None: there is none.

    Raises:
        RequestError: there are several, or one is malformed.
    """
    found: list[tuple[str, str, Any]] = []
    if body.response_format:
        found.append(("response_format", "response_format", body.response_format))
    found += [(name, name.removeprefix("guided_"), getattr(body, name)) for name in _GUIDED]
    found += [(f"structured_outputs.{name}", name, value) for name, value in (body.structured_outputs or {}).items()]
    found += [("grammar", "grammar", body.grammar or None), ("json_schema", "json", body.json_schema)]  # llama.cpp's
    found = [one for one in found if one[2] is not None and one[2] is not False]
    if len(found) > 1:
        names = ", ".join(name for name, _, _ in found)
        raise InvalidRequestError(f"Only one of {names} can be set.", param=found[1][0], hint="Send one of them.")
    if not found:
        return None
    name, kind, value = found[0]
    bounded(value, name, MAX_SCHEMA)
    return (value if kind == "response_format" else _as_format(name, kind, value)), name


def _as_format(name: str, kind: str, value: Any) -> dict[str, Any]:
    match kind:
        case "json":
            return {"type": "json_schema", "json_schema": {"name": "output", "schema": _schema(name, value)}}
        case "json_object":
            return {"type": "json_object"}
        case "regex" | "grammar" if isinstance(value, str) and value:
            return {"type": kind, kind: value}
        case "choice" if isinstance(value, list) and value and all(isinstance(one, str) and one for one in value):
            if len(value) > _MAX_CHOICES:
                raise InvalidRequestError(
                    f"{name} holds {len(value)} texts; the maximum is {_MAX_CHOICES}.", param=name
                )
            # Understood by llama.cpp (GBNF) and vLLM (EBNF) alike.
            return {"type": "grammar", "grammar": f"root ::= {' | '.join(map(_literal, value))}"}
        case "regex" | "grammar" | "choice":
            wanted = "an array of texts, none of them empty" if kind == "choice" else "a text that is not empty"
            raise InvalidRequestError(f"{name} must be {wanted}.", param=name)
    raise UnsupportedFeatureError(
        f"Unsupported parameter: {name!r}.", param=name, hint="Supported are json, json_object, regex, choice, grammar."
    )


def _schema(name: str, value: Any) -> dict[str, Any]:
    """A JSON Schema, which may also be its text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = None
        bounded(value, name, MAX_SCHEMA)
    if not isinstance(value, dict):
        raise InvalidRequestError(f"{name} must be a JSON Schema, or the text of one.", param=name)
    return value


_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _literal(text: str) -> str:
    return '"' + "".join(_ESCAPES.get(character, character) for character in text) + '"'
