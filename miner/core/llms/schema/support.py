"""What each engine enforces of a JSON Schema, settled before the first token: said so that the engine does, refused by
the keyword and its place, or, where the caller allows that, left to the check of the finished reply and listed.

- llama.cpp, its own server or Ollama's: what `schema_translate` can say. Bounds of numbers need a grammar of ours,
  which llama.cpp's own server takes, for a reply without reasoning before it.
- vLLM (xgrammar and guidance behind it): it refuses most of what it lacks by itself; the keywords below it drops.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec.structs import replace

from miner.core.llms.contract.cache import LRUCache
from miner.core.llms.contract.capabilities import WAY_OUT, forget, note_ignored
from miner.core.llms.schema.gbnf import grammar_of
from miner.core.llms.schema.pattern import MAX_REPEATS
from miner.core.llms.schema.translate import Lack, Translator, is_never
from miner.core.wire import ChatRequest
from miner.errors import InvalidRequestError, UnsupportedFeatureError

__all__ = [
    "Sendable", "cached_sendable", "check_llama", "check_vllm", "parameters_of", "refuse_both", "sendable",
    "sendable_format", "sendable_tool", "taken_as_it_is",
]  # fmt: skip

_VLLM_LACKS = (
    "not", "if", "dependentRequired", "dependentSchemas", "dependencies", "unevaluatedProperties", "unevaluatedItems",
)  # fmt: skip
_LOOK_AROUND = ("(?=", "(?!", "(?<=", "(?<!")
_SCHEMAS = (
    "additionalProperties",
    "items",
    "additionalItems",
    "contains",
    "propertyNames",
    "not",
    "if",
    "then",
    "else",
)
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")


@dataclass(frozen=True, slots=True)
class Sendable:
    """A schema as llama.cpp takes it."""

    schema: dict[str, Any]
    """With its definitions."""
    lacks: tuple[Lack, ...]
    grammar: str | None = None
    """Set where only a grammar enforces it: it has bounds of numbers."""


_CACHE = LRUCache()


def sendable(
    schemas: list[Any], *, bounds: bool, form: Callable[[list[Any]], Any] = lambda made: made[0], always: bool = False
) -> Sendable:
    """The schemas as one that llama.cpp takes, and what of it nothing enforces.

    Args:
        bounds: whether a grammar may be sent in the schema's place.
        form: makes one schema of the translated ones.
        always: make the grammar, if it may be sent, also where the schema would do.

    Raises:
        ValueError: nothing is valid under it, or it cannot be read.
    """
    translator = Translator(number_bounds=bounds)
    made = [translator.translate(schema) for schema in schemas]
    if any(is_never(one) for one in made):
        raise ValueError("nothing is valid under it")
    whole = form(made)
    definitions = translator.definitions
    grammar = grammar_of(whole, definitions) if bounds and (always or _has_bounds([whole, definitions])) else None
    return Sendable({**whole, "$defs": definitions} if definitions else whole, tuple(translator.lacks), grammar)


def cached_sendable(
    schemas: list[Any],
    names: list[str],
    *,
    bounds: bool,
    form: Callable[[list[Any]], Any] = lambda made: made[0],
    always: bool = False,
) -> Sendable:
    """The same, made once while it is in use; `names`: what `form` puts in besides."""
    key = msgspec.json.encode([schemas, names]), (bounds, always)
    return _CACHE.get(key, lambda: sendable(schemas, bounds=bounds, form=form, always=always))


def sendable_format(request: ChatRequest, *, bounds: bool) -> Sendable:
    """The schema of the format that is asked for."""
    wanted = request.response_format
    assert wanted is not None
    try:
        return cached_sendable([wanted.schema], [], bounds=bounds)
    except ValueError as error:
        raise InvalidRequestError(
            f"{wanted.path}: the JSON Schema cannot be used: {error}.", param=wanted.path
        ) from None


def parameters_of(tool: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a tool's arguments, which are an object always."""
    parameters = tool["function"].get("parameters") or {"properties": {}}
    return {"type": "object", **{name: value for name, value in parameters.items() if name != "type"}}


def sendable_tool(tool: Mapping[str, Any], place: int, *, bounds: bool = False) -> Sendable:
    """The parameters of a tool."""
    where = f"tools[{place}].function.parameters"
    try:
        return cached_sendable([parameters_of(tool)], [], bounds=bounds)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise InvalidRequestError(f"{where}: the JSON Schema cannot be used: {error}.", param=where) from None


_BIG = 4_000
"""Bytes of schemas whose translation is left to a thread."""


async def check_llama(request: ChatRequest, where: str, *, bounds: bool) -> None:
    """Make sure that llama.cpp enforces the schemas of a request.

    Raises:
        UnsupportedFeatureError: it does not, and nobody allowed that.
        InvalidRequestError: a schema under which nothing is valid.
    """
    size = len(msgspec.json.encode([request.tools, request.response_format and request.response_format.schema]))
    if size > _BIG:
        await asyncio.to_thread(_translate_all, request, bounds=bounds)
    wanted = request.response_format
    if wanted is not None and wanted.schema is not None:
        lenient = request.ignore_unsupported or wanted.strict is False
        _settle(request, sendable_format(request, bounds=bounds).lacks, wanted.path, where, lenient=lenient)
    if request.tool_choice == "none":
        return
    json_wanted = wanted is not None and wanted.kind in ("json_schema", "json_object")
    grammar_of_calls = json_wanted or request.tool_choice not in (None, "auto")
    for place, tool in enumerate(request.tools or ()):
        # A call that must come is written under a grammar of ours; one that may is left to the engine's own.
        lacks = sendable_tool(tool, place, bounds=bounds and grammar_of_calls).lacks
        if tool["function"].get("strict") is True:
            path = f"tools[{place}].function.parameters"
            _settle(request, lacks, path, where, lenient=request.ignore_unsupported)


def _translate_all(request: ChatRequest, *, bounds: bool) -> None:
    """Into the cache."""
    if request.response_format is not None and request.response_format.schema is not None:
        sendable_format(request, bounds=bounds)
    for place, tool in enumerate(request.tools or ()):
        sendable_tool(tool, place)


def refuse_both(request: ChatRequest, where: str) -> ChatRequest:
    """Return the request without a format that would get in the way of its tools, on an engine where the format's
    grammar lets no call through. With a call that must come, the format has nothing to speak of.

    Raises:
        UnsupportedFeatureError: they do, and nobody allowed that the format is left out.
    """
    if request.tools is None or request.response_format is None or request.tool_choice == "none":
        return request
    if request.tool_choice not in (None, "auto"):
        return replace(request, response_format=None)
    if not request.ignore_unsupported:
        raise UnsupportedFeatureError(
            f"{where} does not support response_format together with tools: no call would get through.",
            param="response_format",
            hint="Send one of them, or tool_choice none or required.",
        )
    return forget(request, "response_format")


def check_vllm(request: ChatRequest, where: str) -> None:
    """Make sure that vLLM drops nothing of the schema of the format silently.

    Raises:
        UnsupportedFeatureError: it does, and nobody allowed that.
    """
    wanted = request.response_format
    if wanted is not None and wanted.schema is not None:
        lenient = request.ignore_unsupported or wanted.strict is False
        _settle(request, tuple(dropped_by_vllm(wanted.schema)), wanted.path, where, lenient=lenient)


def _settle(request: ChatRequest, lacks: tuple[Lack, ...], path: str, where: str, *, lenient: bool) -> None:
    for lack in lacks:
        place = f"{path}{lack.path}"
        if not lenient:
            why = f" ({lack.why})" if lack.why else ""
            raise UnsupportedFeatureError(
                f"{where} cannot enforce {lack.keyword} of a JSON Schema{why}: {place}.", param=place, hint=WAY_OUT
            )
        note_ignored(request, place)


def _has_bounds(node: Any) -> bool:
    if isinstance(node, Mapping):
        if node.get("type") == "number" and any(
            name in node for name in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
        ):
            return True
        return any(_has_bounds(value) for name, value in node.items() if name not in ("const", "enum", "default"))
    return isinstance(node, list) and any(map(_has_bounds, node))


def taken_as_it_is(schema: Any) -> bool:
    """Whether llama.cpp's converter takes a schema, however little of it it enforces."""
    if not isinstance(schema, Mapping):
        return False
    reference = schema.get("$ref", "#/")
    if not isinstance(reference, str) or not reference.startswith("#/") or "~" in reference or "%" in reference:
        return False
    if any(type(schema.get(name, 0)) is not int for name in ("minItems", "maxItems", "minLength", "maxLength")):
        return False
    if "pattern" in schema or schema.get("enum", True) == [] or schema.get("minLength", 0) > MAX_REPEATS:
        return False
    inner = [schema[name] for name in _SCHEMAS if name in schema and not isinstance(schema[name], (bool, list))]
    inner += [part for name in _LISTS if isinstance(schema.get(name), list) for part in schema[name]]
    inner += [part for name in _MAPS if isinstance(schema.get(name), Mapping) for part in schema[name].values()]
    return not isinstance(schema.get("items"), bool) and all(map(taken_as_it_is, inner))


def dropped_by_vllm(schema: Any, path: str = "") -> Iterator[Lack]:
    """The keywords that vLLM does not look at."""
    if not isinstance(schema, Mapping):
        return
    for name in _VLLM_LACKS:
        if name in schema and not (name.startswith("unevaluated") and schema[name] is True):
            yield Lack(name, f"{path}.{name}")
    pattern = schema.get("pattern")
    if isinstance(pattern, str) and any(mark in pattern for mark in _LOOK_AROUND):
        yield Lack("pattern", f"{path}.pattern", "look-around")
    for name in _SCHEMAS:
        yield from dropped_by_vllm(schema.get(name), f"{path}.{name}")
    for name in _LISTS:
        for place, inner in enumerate(schema[name] if isinstance(schema.get(name), list) else ()):
            yield from _dropped_inside(inner, f"{path}.{name}[{place}]")
    for name in _MAPS:
        for key, inner in (schema[name] if isinstance(schema.get(name), Mapping) else {}).items():
            yield from _dropped_inside(inner, f"{path}.{name}.{key}")


def _dropped_inside(schema: Any, path: str) -> Iterator[Lack]:
    if schema is False:  # xgrammar fails on it, in the middle of the request
        yield Lack("false", path, "a subschema under which nothing is valid")
    yield from dropped_by_vllm(schema, path)
