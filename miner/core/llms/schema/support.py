"""What each engine enforces of a JSON Schema, decided before the request is sent: other keywords are refused with the
keyword and its place, or, where the caller allows that, listed as ignored and left to the check of the reply.

- llama.cpp, its own server or Ollama's: what `translate` can express. Bounds of numbers need a grammar of our own
  (`gbnf`), which llama.cpp's own server takes, for a reply without reasoning before it.
- vLLM (xgrammar and guidance): it refuses most of what it does not enforce by itself; the keywords below it drops.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec.structs import replace

from miner.core.llms.contract.cache import LRUCache
from miner.core.llms.contract.capabilities import LENIENT_HINT, drop_param, may_ignore, note_ignored
from miner.core.llms.schema.gbnf import grammar_of
from miner.core.llms.schema.keywords import LISTS, MAPS, NEVER, SINGLE, Unenforced
from miner.core.llms.schema.pattern import MAX_REPEATS
from miner.core.llms.schema.translate import Translator
from miner.core.wire import ChatRequest
from miner.errors import InvalidRequestError, UnsupportedFeatureError

_VLLM_DROPS = (
    "not", "if", "dependentRequired", "dependentSchemas", "dependencies", "unevaluatedProperties", "unevaluatedItems",
)  # fmt: skip
_LOOK_AROUND = ("(?=", "(?!", "(?<=", "(?<!")


@dataclass(frozen=True, slots=True)
class LlamaSchema:
    """A schema in the form that llama.cpp takes."""

    schema: dict[str, Any]
    """The schema with its definitions."""
    unenforced: tuple[Unenforced, ...]
    grammar: str | None = None
    """GBNF to send in its place, where the schema alone would not be enforced: it has bounds of numbers."""


_CACHE = LRUCache()


def llama_schema(
    schemas: list[Any],
    names: Sequence[str] = (),
    *,
    bounds: bool,
    combine: Callable[[list[Any]], Any] = lambda translated: translated[0],
    always: bool = False,
) -> LlamaSchema:
    """Translate schemas into one that llama.cpp takes. Cached.

    Args:
        names: what else the result of `combine` depends on.
        bounds: whether a grammar may be sent in the schema's place.
        combine: makes one schema of the translated ones.
        always: make the grammar, if it may be sent, even where the schema is enforced.

    Raises:
        ValueError: nothing is valid under it, or it is no schema.
    """

    def translate() -> LlamaSchema:
        translator = Translator(number_bounds=bounds)
        translated = [translator.translate(schema) for schema in schemas]
        if any(one is NEVER for one in translated):
            raise ValueError("nothing is valid under it")
        root, definitions = combine(translated), translator.definitions
        grammar = grammar_of(root, definitions) if bounds and (always or _has_bounds([root, definitions])) else None
        root = {**root, "$defs": definitions} if definitions else root
        return LlamaSchema(root, tuple(translator.unenforced), grammar)

    return _CACHE.get((msgspec.json.encode([schemas, names]), (bounds, always)), translate)


def format_schema(request: ChatRequest, *, bounds: bool) -> LlamaSchema:
    """The schema of the request's `response_format`."""
    wanted = request.response_format
    assert wanted is not None
    try:
        return llama_schema([wanted.schema], bounds=bounds)
    except ValueError as error:
        raise InvalidRequestError(
            f"{wanted.path}: the JSON Schema cannot be used: {error}.", param=wanted.path
        ) from None


def parameters_of(tool: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a tool's arguments, which always are an object."""
    parameters = tool["function"].get("parameters") or {"properties": {}}
    return {"type": "object", **{name: value for name, value in parameters.items() if name != "type"}}


def tool_schema(tool: Mapping[str, Any], place: int, *, bounds: bool = False) -> LlamaSchema:
    """The parameters of a tool."""
    where = f"tools[{place}].function.parameters"
    try:
        return llama_schema([parameters_of(tool)], bounds=bounds)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise InvalidRequestError(f"{where}: the JSON Schema cannot be used: {error}.", param=where) from None


_THREAD_BYTES = 4_000
"""Bytes of schemas above which they are translated in a thread."""


async def check_llama(request: ChatRequest, where: str, *, bounds: bool) -> None:
    """Check that llama.cpp enforces the schemas of a request.

    Raises:
        UnsupportedFeatureError: it does not, and the caller does not allow that.
        InvalidRequestError: nothing is valid under a schema.
    """
    size = len(msgspec.json.encode([request.tools, request.response_format and request.response_format.schema]))
    if size > _THREAD_BYTES:
        await asyncio.to_thread(_translate_all, request, bounds=bounds)
    wanted = request.response_format
    if wanted is not None and wanted.schema is not None:
        lenient = may_ignore(request, "response_format") or wanted.strict is False
        _refuse_or_note(request, format_schema(request, bounds=bounds).unenforced, wanted.path, where, lenient=lenient)
    if request.tool_choice == "none":
        return
    json_wanted = wanted is not None and wanted.kind in ("json_schema", "json_object")
    grammar_of_calls = json_wanted or request.tool_choice not in (None, "auto")
    for place, tool in enumerate(request.tools or ()):
        # A forced call is constrained by our grammar; an optional one by llama.cpp's own.
        unenforced = tool_schema(tool, place, bounds=bounds and grammar_of_calls).unenforced
        if tool["function"].get("strict") is True:
            path = f"tools[{place}].function.parameters"
            _refuse_or_note(request, unenforced, path, where, lenient=may_ignore(request, "tools"))


def _translate_all(request: ChatRequest, *, bounds: bool) -> None:
    """Fill the cache."""
    if request.response_format is not None and request.response_format.schema is not None:
        format_schema(request, bounds=bounds)
    for place, tool in enumerate(request.tools or ()):
        tool_schema(tool, place)


def drop_conflicting_format(request: ChatRequest, where: str) -> ChatRequest:
    """Return the request without a format that would get in the way of its tools, on an engine where the format's
    grammar lets no call through. A forced call makes the format meaningless.

    Raises:
        UnsupportedFeatureError: they do, and the caller does not allow that the format is left out.
    """
    if request.tools is None or request.response_format is None or request.tool_choice == "none":
        return request
    if request.tool_choice not in (None, "auto"):
        return replace(request, response_format=None)
    if not may_ignore(request, "response_format"):
        raise UnsupportedFeatureError(
            f"{where} does not support response_format together with tools: no call would get through.",
            param="response_format",
            hint="Send one of them, or tool_choice none or required.",
        )
    return drop_param(request, "response_format")


def check_vllm(request: ChatRequest, where: str) -> None:
    """Check that vLLM drops no keyword of the schema of `response_format`.

    Raises:
        UnsupportedFeatureError: it does, and the caller does not allow that.
    """
    wanted = request.response_format
    if wanted is not None and wanted.schema is not None:
        lenient = may_ignore(request, "response_format") or wanted.strict is False
        _refuse_or_note(request, tuple(dropped_by_vllm(wanted.schema)), wanted.path, where, lenient=lenient)


def _refuse_or_note(
    request: ChatRequest, unenforced: tuple[Unenforced, ...], path: str, where: str, *, lenient: bool
) -> None:
    for item in unenforced:
        place = f"{path}{item.path}"
        if not lenient:
            why = f" ({item.why})" if item.why else ""
            raise UnsupportedFeatureError(
                f"{where} cannot enforce {item.keyword} of a JSON Schema{why}: {place}.", param=place, hint=LENIENT_HINT
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


def is_convertible(schema: Any) -> bool:
    """Return whether llama.cpp's converter takes a schema unchanged, however little of it it enforces."""
    if not isinstance(schema, Mapping):
        return False
    reference = schema.get("$ref", "#/")
    if not isinstance(reference, str) or not reference.startswith("#/") or "~" in reference or "%" in reference:
        return False
    if any(type(schema.get(name, 0)) is not int for name in ("minItems", "maxItems", "minLength", "maxLength")):
        return False
    if "pattern" in schema or schema.get("enum", True) == [] or schema.get("minLength", 0) > MAX_REPEATS:
        return False
    inner = [schema[name] for name in SINGLE if name in schema and not isinstance(schema[name], (bool, list))]
    inner += [part for name in LISTS if isinstance(schema.get(name), list) for part in schema[name]]
    inner += [part for name in MAPS if isinstance(schema.get(name), Mapping) for part in schema[name].values()]
    return not isinstance(schema.get("items"), bool) and all(map(is_convertible, inner))


def dropped_by_vllm(schema: Any, path: str = "") -> Iterator[Unenforced]:
    """The keywords that vLLM ignores."""
    if not isinstance(schema, Mapping):
        return
    for name in _VLLM_DROPS:
        if name in schema and not (name.startswith("unevaluated") and schema[name] is True):
            yield Unenforced(name, f"{path}.{name}")
    pattern = schema.get("pattern")
    if isinstance(pattern, str) and any(mark in pattern for mark in _LOOK_AROUND):
        yield Unenforced("pattern", f"{path}.pattern", "look-around")
    for name in SINGLE:
        yield from dropped_by_vllm(schema.get(name), f"{path}.{name}")
    for name in LISTS:
        for place, inner in enumerate(schema[name] if isinstance(schema.get(name), list) else ()):
            yield from _dropped_inside(inner, f"{path}.{name}[{place}]")
    for name in MAPS:
        for key, inner in (schema[name] if isinstance(schema.get(name), Mapping) else {}).items():
            yield from _dropped_inside(inner, f"{path}.{name}.{key}")


def _dropped_inside(schema: Any, path: str) -> Iterator[Unenforced]:
    if schema is False:  # xgrammar fails on it in the middle of the request
        yield Unenforced("false", path, "a subschema under which nothing is valid")
    yield from dropped_by_vllm(schema, path)
