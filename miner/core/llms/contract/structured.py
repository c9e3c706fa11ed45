"""Structured output: the forms of `response_format`, and the check of the response against it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import msgspec

from miner.core.llms.contract.cache import LRUCache
from miner.core.llms.schema.keywords import TYPES
from miner.core.llms.schema.normalize import first_error, without_nulls
from miner.core.wire import LLMResponse, OutputFormat
from miner.errors import InvalidRequestError, OutputValidationError

_FORMS = (
    'a JSON Schema, {"type": "json_object"}, {"type": "json_schema", "json_schema": {"schema": ...}}, '
    '{"type": "regex", "regex": ...}, {"type": "grammar", "grammar": ...}, or a pydantic, msgspec or dataclass type'
)
_KINDS = ("text", "json_object", "json_schema", "regex", "grammar")
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
MAX_SCHEMA = 120_000
"""Bytes of a JSON Schema, as at OpenAI: compiling it blocks all other requests."""
_VALIDATORS = LRUCache()
_SCHEMA_WORDS = {"type", "properties", "$ref", "$defs", "anyOf", "oneOf", "allOf", "enum", "const", "items", "$schema"}


def output_format(value: Any) -> OutputFormat | None:
    """Return `response_format` in one form; None if any text will do.

    Raises:
        InvalidRequestError: the form is unknown or the schema invalid.
    """
    if value is None or isinstance(value, OutputFormat):
        return value
    if isinstance(value, type):
        return _from_type(value)
    if not isinstance(value, Mapping):
        raise _unknown_form(value)
    match value.get("type"):
        case "text":
            return None
        case "json_object" if "properties" not in value:
            schema = value.get("schema")
            if schema is None:
                return OutputFormat(kind="json_object")
            return _schema_format(schema, {}, "response_format.schema")
        case "json_schema":
            inner = value.get("json_schema", value)
            if not isinstance(inner, Mapping) or not isinstance(inner.get("schema"), Mapping):
                raise InvalidRequestError("response_format.json_schema.schema is missing.", param="response_format")
            nested = "json_schema" in value
            return _schema_format(inner["schema"], inner, f"response_format{'.json_schema' if nested else ''}.schema")
        case "regex":
            return OutputFormat(kind="regex", pattern=_text(value, "regex", "pattern"))
        case "grammar":
            return OutputFormat(kind="grammar", pattern=_text(value, "grammar"))
    kind = value.get("type")
    if isinstance(kind, str) and kind not in TYPES:
        raise InvalidRequestError(
            f"response_format.type must be one of {', '.join(_KINDS)}, or the type of a JSON Schema, "
            f"not {kind[:80]!r}.",
            param="response_format.type",
        )
    if _SCHEMA_WORDS & value.keys():
        return _schema_format(value, {}, "response_format")
    raise _unknown_form(value)


def _unknown_form(value: Any) -> InvalidRequestError:
    return InvalidRequestError(f"response_format must be {_FORMS}, not {str(value)[:80]!r}.", param="response_format")


def _text(value: Mapping[str, Any], *names: str) -> str:
    for name in names:
        text = value.get(name)
        if isinstance(text, str) and text:
            return text
    raise InvalidRequestError(f"response_format.{names[0]} is missing.", param="response_format")


def _schema_format(schema: Any, around: Mapping[str, Any], path: str) -> OutputFormat:
    if not isinstance(schema, Mapping):
        raise InvalidRequestError("response_format: the schema must be a mapping.", param="response_format")
    plain = _without_nulls(dict(schema))
    _validator(plain)
    strict = around.get("strict")
    name = around.get("name")
    return OutputFormat(
        kind="json_schema",
        schema=plain,
        path=path,
        name=name if isinstance(name, str) and name else "output",
        strict=strict if isinstance(strict, bool) else None,
    )


def _without_nulls(schema: dict[str, Any]) -> dict[str, Any]:
    try:
        result: dict[str, Any] = without_nulls(schema)
    except RecursionError:
        return schema  # the validator reports it
    return result


def _from_type(target: type) -> OutputFormat:
    """The schema of a type: pydantic's own, or msgspec's for structs, dataclasses and TypedDicts."""
    pydantic_schema = getattr(target, "model_json_schema", None)
    if pydantic_schema is not None:
        schema = pydantic_schema()
    elif dataclasses.is_dataclass(target) or issubclass(target, (msgspec.Struct, dict)):
        try:
            reference, components = msgspec.json.schema_components([target], ref_template="#/$defs/{name}")
        except TypeError as error:
            raise InvalidRequestError(f"response_format: {error}.", param="response_format") from None
        schema = components.pop(target.__name__) if target.__name__ in components else dict(reference[0])
        if components or f"#/$defs/{target.__name__}" in str(schema):
            root = dict(schema)
            if f"#/$defs/{target.__name__}" in f"{schema}{components}":
                components[target.__name__] = root
            schema = {**root, "$defs": components}
    else:
        raise _unknown_form(target)
    _validator(schema)
    return OutputFormat(kind="json_schema", schema=schema, name=target.__name__, target=target)


def _refuse_remote_references(node: Any) -> None:
    """A schema may refer to its own parts only: a request must not make us fetch a URL."""
    stack = [node]
    while stack:
        value = stack.pop()
        if isinstance(value, Mapping):
            for word in _REFERENCES:
                reference = value.get(word)
                if not isinstance(reference, str) or reference.startswith("#"):
                    continue
                raise InvalidRequestError(
                    f"response_format: {word} {reference!r} refers outside the schema; only '#/...' is allowed.",
                    param="response_format",
                )
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)


def _validator(schema: dict[str, Any]) -> Any:
    """The compiled validator of a schema, cached.

    Raises:
        InvalidRequestError: it is not a JSON Schema, refers outside itself, or is larger than MAX_SCHEMA.
    """
    try:
        key = msgspec.json.encode(schema)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequestError(
            f"response_format: the schema is not JSON: {error}.", param="response_format"
        ) from None
    if len(key) > MAX_SCHEMA:
        raise InvalidRequestError(
            f"response_format: the JSON Schema has {len(key)} bytes; {MAX_SCHEMA} at most.",
            param="response_format",
        )
    return _VALIDATORS.get((key, None), lambda: _compiled(schema))


def _compiled(schema: dict[str, Any]) -> Any:
    import jsonschema_rs

    _refuse_remote_references(schema)
    try:
        return jsonschema_rs.validator_for(schema, retriever=refuse_fetch, validate_formats=False)
    except (jsonschema_rs.ValidationError, ValueError) as error:
        reason = str(error).splitlines()[0]
        if isinstance(error, jsonschema_rs.ValidationError) and (found := first_error(schema)) is not None:
            place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in found[0])
            reason = f"{place.lstrip('.')}: {found[1]}" if place else found[1]
        raise InvalidRequestError(
            f"response_format: the JSON Schema is not valid: {reason}.", param="response_format"
        ) from None


def refuse_fetch(address: str) -> Any:
    """Refuse remote references, `$schema` included: the validator would fetch them."""
    raise ValueError(f"{address} is not fetched")


def check_output(wanted: OutputFormat, response: LLMResponse, origin: Mapping[str, Any]) -> None:
    """Check a response against the request's format and set `response.parsed`.

    Raises:
        OutputValidationError: it does not match, or was cut short.
    """
    if response.tool_calls:
        return  # the format applies to content alone
    where = origin.get("backend") or "the engine"
    if response.finish_reason in ("length", "repetition"):
        cause = "the context was full" if response.context_exhausted else "max_tokens was reached"
        hint = "Raise max_tokens, or request a shorter output."
        if response.context_exhausted:
            hint = "Shorten the prompt, or request a shorter output."
        if response.finish_reason == "repetition":
            cause = "the model repeated itself"
        if response.usage is not None:
            cause += f" ({response.usage.completion_tokens} tokens)"
        raise OutputValidationError(
            f"The response was cut short because {cause} before the {wanted.kind.replace('_', ' ')} was complete.",
            response=response,
            hint=hint,
            **origin,
        )
    if wanted.kind == "grammar":
        return  # only the engine can parse its grammar
    if wanted.kind == "regex":
        _check_regex(wanted, response, where, origin)
        return
    try:
        value = msgspec.json.decode(response.content)
    except (msgspec.DecodeError, RecursionError) as error:  # nested too deeply
        raise OutputValidationError(
            f"The response of {where} is not JSON: {error}.", response=response, **origin
        ) from None
    if wanted.kind == "json_object" and not isinstance(value, dict):
        raise OutputValidationError(f"The response of {where} is JSON but not an object.", response=response, **origin)
    if wanted.schema is not None:
        failure = next(_validator(wanted.schema).iter_errors(value), None)
        if failure is not None:
            place = "/".join(str(step) for step in failure.instance_path) or "the top level"
            raise OutputValidationError(
                f"The response of {where} violates the schema at {place}: {failure.message}.",
                response=response,
                **origin,
            )
    response.parsed = value if wanted.target is None else _parse(wanted.target, value, response, origin)


def _check_regex(wanted: OutputFormat, response: LLMResponse, where: str, origin: Mapping[str, Any]) -> None:
    # By the schema validator, whose backtracking is bounded: the pattern is the caller's.
    import jsonschema_rs

    try:
        validator = jsonschema_rs.validator_for({"pattern": f"^(?:{wanted.pattern})$"})
    except (jsonschema_rs.ValidationError, ValueError):
        return  # the engine's own dialect, which it enforced
    if not validator.is_valid(response.content):
        raise OutputValidationError(
            f"The response of {where} does not match {wanted.pattern!r}.", response=response, **origin
        )


def _parse(target: Any, value: Any, response: LLMResponse, origin: Mapping[str, Any]) -> Any:
    validate = getattr(target, "model_validate", None)
    try:
        return validate(value) if validate is not None else msgspec.convert(value, target)
    except (msgspec.ValidationError, ValueError) as error:  # pydantic's ValidationError is a ValueError
        reason = str(error).splitlines()[0]
        raise OutputValidationError(
            f"The response matches the schema but is not a {target.__name__}: {reason}.", response=response, **origin
        ) from None
