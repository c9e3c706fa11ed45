"""Reading request bodies: bounded in size, time and depth; errors name the invalid field."""

from __future__ import annotations

import asyncio
import difflib
import re
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from miner.errors import InvalidRequestError, MinerError
from miner.gateway.body_structure import check_structure
from miner.gateway.context import RequestContext
from miner.gateway.errors import RefusedError

T = TypeVar("T")
P = TypeVar("P")

_BIG = 64 * 1024
"""Bytes from which a body is decoded in a thread."""
_thread = ThreadPoolExecutor(1, thread_name_prefix="miner body")
"""One thread: several would compete for the GIL, and the event loop would wait for them all."""

_LONE_SURROGATE = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])")
_LONGEST = 400
"""Characters of a decoder's message: it quotes names that the client chose."""

_INTEGRAL = "got `float`"


def _integral(text: str) -> float:
    number = float(text)
    return int(number) if abs(number) < 2**63 and number == int(number) else number


_WITH_INTEGERS = msgspec.json.Decoder(float_hook=_integral)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*?)`(?: - at `(.*?)`)?$")
_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")
_MOST_FOREIGN = 64
"""Kinds of unknown fields of a body: each costs a conversion of it."""
_LONGEST_NAME = 100
_MISSING = re.compile(r"Object missing required field `(.*?)`")
_JSON_TYPES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}
_PYTHON_TYPE = re.compile(r"\b(str|int|float|bool)\b")
_PLACE = re.compile(r"^(.*?)(?: - at `\$?\.?(.*?)`)?$", re.DOTALL)


async def _read(context: RequestContext) -> list[bytes]:
    """The complete body in chunks, counted against the budget of all bodies until the request ends."""
    if context.peeked is not None:
        parts, context.peeked = context.peeked, None
        return parts
    request, settings = context.request, context.gateway.settings
    most, length = settings.serve_max_body, request.content_length
    coding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        # A kilobyte of it can hold a megabyte.
        raise RefusedError(
            415, "unsupported_encoding", f"Unsupported Content-Encoding: {coding[:40]!r}.",
            hint="Send the body uncompressed.", headers={"Accept-Encoding": "identity"},
        )  # fmt: skip
    if length is not None and length > most:
        raise _too_large(most)
    try:
        if request.content.is_eof():
            return await _read_all(context)
        async with asyncio.timeout(settings.serve_body_timeout):
            return await _read_all(context)
    except web.RequestPayloadError:
        raise _invalid_http() from None
    except TimeoutError:
        raise RefusedError(
            408, "body_timeout", f"The request body did not arrive within {settings.serve_body_timeout:g} s."
        ) from None


async def _read_all(context: RequestContext) -> list[bytes]:
    content, budget, most = context.request.content, context.gateway.bodies, context.gateway.settings.serve_max_body
    parts: list[bytes] = []
    while not content.at_eof():
        part = await content.readany()
        context.body_size += len(part)
        if context.body_size > most:
            raise _too_large(most)
        context.body_reserved = budget.grow(context.body_reserved, context.body_size)
        parts.append(part)
    return parts


async def read_parts(context: RequestContext) -> AsyncGenerator[bytes, None]:
    """Yield a body of any length as it arrives, for one that goes to the disk: only each wait for it is bounded.

    Raises:
        RefusedError: 400 (`invalid_http`) if its chunks or its length are wrong, 408 if nothing arrives in time.
    """
    content, settings = context.request.content, context.gateway.settings
    try:
        while not content.at_eof():
            async with asyncio.timeout(settings.serve_body_timeout):
                part = await content.readany()
            if part:
                context.body_size += len(part)
                yield part
    except web.RequestPayloadError:
        raise _invalid_http() from None
    except TimeoutError:
        raise RefusedError(
            408, "body_timeout", f"Nothing of the request body arrived for {settings.serve_body_timeout:g} s."
        ) from None


async def read_body(context: RequestContext) -> bytes:
    """The body as it is, for routes whose body is no JSON. Errors are those of `parse_body`."""
    return b"".join(await _read(context))


class _Named(msgspec.Struct):
    model: Any = None


async def model_named(context: RequestContext) -> str | None:
    """The model that a body names; None: none, or the body is no JSON. The body can be read again, once."""
    parts = await _read(context)
    raw = b"".join(parts)
    context.peeked = [raw]

    def named() -> Any:
        try:
            return msgspec.json.decode(raw, type=_Named).model
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None

    name = await off_loop(context, named)
    return name if isinstance(name, str) and name else None


async def parse_body(context: RequestContext, parse: Callable[[bytes], P]) -> P:
    """Parse the body: a large one in a thread, one at a time, so that the event loop is not blocked.

    Raises:
        RefusedError: 400 (`invalid_http`) if its chunks or its length are wrong, 413 if it is too large, 408 if it does
            not arrive in time, 415 if it is compressed, 503 if there is no room for it.
        InvalidRequestError: it exceeds a limit of `body_limits.py`, or what `parse` raises.
    """
    return await off_loop(context, _parsed, await _read(context), parse)


async def read_form(context: RequestContext) -> bytes:
    """Read a body that is no JSON: bounded in size and time alone. Errors are those of `parse_body`."""
    return b"".join(await _read(context))


async def decode_body(
    context: RequestContext, decoder: msgspec.json.Decoder[T], foreign: dict[str, Any] | None = None
) -> T:
    """Return the body as its struct. Arguments and errors are those of `parse_body` and `decode`."""
    return await parse_body(context, lambda raw: decode(raw, decoder, foreign))


async def off_loop(context: RequestContext, work: Callable[..., P], *arguments: Any) -> P:
    """Process a decoded body: in a thread if it is large."""
    if context.body_size <= _BIG:
        return work(*arguments)
    result, error = await asyncio.get_running_loop().run_in_executor(_thread, _caught, work, *arguments)
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


def _caught(work: Callable[..., P], *arguments: Any) -> tuple[P, None] | tuple[None, MinerError]:
    """The result, or the error without its traceback: that would keep the body alive until the garbage collector runs,
    since the traceback includes the frames of its handler.
    """
    try:
        return work(*arguments), None
    except MinerError as error:
        error.__context__ = None
        return None, error.with_traceback(None)


def _parsed(parts: list[bytes], parse: Callable[[bytes], P]) -> P:
    raw = b"".join(parts)
    parts.clear()
    check_structure(raw)
    return parse(raw)


def _invalid_http() -> RefusedError:
    return RefusedError(400, "invalid_http", "The request body is not valid HTTP: its chunks or its length are wrong.")


def _too_large(limit: int) -> RefusedError:
    return RefusedError(413, "body_too_large", f"Request body too large: the limit is {limit} bytes.")


def decode(body: bytes, decoder: msgspec.json.Decoder[T], foreign: dict[str, Any] | None = None) -> T:
    """Return a body as its struct.

    Args:
        foreign: gets the fields that the struct does not know, by their paths; None: they are refused.

    Raises:
        InvalidRequestError: not JSON, or a field of the wrong type.
    """
    if not body:
        raise InvalidRequestError("The request body is empty; expected a JSON object.")
    try:
        try:
            return decoder.decode(body)
        except msgspec.ValidationError as error:
            text = str(error)
            if _INTEGRAL not in text and (foreign is None or not _UNKNOWN.match(text)):
                raise _field_error(text, decoder.type) from None
            # 4.0 is an integer to JSON, and to what many clients are written in.
            return _convert(_WITH_INTEGERS.decode(body), decoder.type, foreign)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _not_json(body, error) from None
    except RecursionError:
        raise InvalidRequestError("The request body is nested too deeply.") from None


def json_of(body: bytes) -> Any:
    """The decoded body, for what its struct cannot tell.

    Raises:
        InvalidRequestError: it is not JSON.
    """
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _not_json(body, error) from None
    except RecursionError:
        raise InvalidRequestError("The request body is nested too deeply.") from None


def _not_json(body: bytes, error: Exception) -> InvalidRequestError:
    lone = _LONE_SURROGATE.search(body)
    if lone is not None and body.rstrip().endswith(b"}"):
        return InvalidRequestError(
            f"The request body is not valid Unicode: {lone.group().decode()} is half of a surrogate pair."
        )
    reason = str(error).removeprefix("JSON is malformed: ")
    return InvalidRequestError(f"The request body is not valid JSON: {reason[:1].lower()}{reason[1:]}.")


def _convert(body: Any, struct: type[T], foreign: dict[str, Any] | None) -> T:
    """The decoded body as its struct, after its unknown fields were moved to `foreign`, where that is a dict."""
    for _ in range(_MOST_FOREIGN):
        try:
            return msgspec.convert(body, struct)
        except msgspec.ValidationError as error:
            unknown = _UNKNOWN.match(str(error))
            if unknown is None or foreign is None or not _move(body, foreign, unknown.group(1), unknown.group(2)):
                raise _field_error(str(error), struct) from None
    raise InvalidRequestError(f"The request body has more than {_MOST_FOREIGN} kinds of unknown fields.")


def _move(body: Any, foreign: dict[str, Any], name: str, place: str | None) -> bool:
    """Move a field from its object and from those like it, in other elements of the same lists, to `foreign`."""
    if len(name) > _LONGEST_NAME:
        return False
    path = (place or "$").removeprefix("$").removeprefix(".")
    steps = [int(index) if index else field for field, index in _STEP.findall(path)]
    if "" in steps or "..." in path:
        return False
    found = body
    for step in steps:
        found = found[step]
    if not isinstance(found, dict) or name not in found:
        return False
    foreign.setdefault(f"{path}.{name}" if path else name, found[name])
    kind = found.get("type")
    alike = [body]
    for step in steps:
        if isinstance(step, int):
            alike = [item for one in alike if isinstance(one, list) for item in one]
        else:
            alike = [one[step] for one in alike if isinstance(one, dict) and step in one]
    for one in alike:
        if isinstance(one, dict) and one.get("type") == kind:
            one.pop(name, None)
    return name not in found


def _field_error(text: str, struct: Any) -> InvalidRequestError:
    """The decoder's message, with the field in front."""
    if len(text) > 2 * _LONGEST:
        text = f"{text[:_LONGEST]}...{text[-_LONGEST:]}"
    unknown = _UNKNOWN.match(text)
    if unknown is not None:
        name, place = unknown.group(1), (unknown.group(2) or "").removeprefix("$").removeprefix(".")
        fields = getattr(struct, "__struct_encode_fields__", ())
        near = difflib.get_close_matches(name, fields, n=1) if not place else []
        hint = f"Did you mean {near[0]!r}?" if near else "Remove it: no parameter is ignored silently."
        path = f"{place}.{name}" if place else name
        return InvalidRequestError(f"Unknown parameter: {path!r}.", param=path, hint=hint)
    match = _PLACE.match(text)
    reason, place = (match.group(1), match.group(2)) if match is not None else (text, None)
    missing = _MISSING.match(reason)
    if missing is not None:
        name = f"{place}.{missing.group(1)}" if place else missing.group(1)
        return InvalidRequestError(f"Missing required parameter: {name!r}.", param=name)
    what = "Invalid value"
    if reason.startswith("Expected"):
        what, reason = "Invalid type", _PYTHON_TYPE.sub(lambda found: _JSON_TYPES[found.group()], reason)
    where = f"for {place!r}" if place else "for the request body"
    reason = reason.removeprefix("Invalid value ")
    return InvalidRequestError(f"{what} {where}: {reason[:1].lower()}{reason[1:]}.", param=place or None)
