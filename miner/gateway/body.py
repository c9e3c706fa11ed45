"""Reading request bodies: bounded in size, time and depth, and wrong ones refused by the name of the field."""

from __future__ import annotations

import asyncio
import difflib
import re
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from miner.errors import InvalidRequestError
from miner.gateway.errors import RefusedError
from miner.gateway.exchange import Exchange

__all__ = ["MAX_DEPTH", "bounded", "decode", "read_body"]

T = TypeVar("T")

MAX_DEPTH = 64
"""Levels of nesting in the free parts of a body: schemas, tools, metadata."""
MAX_NODES = 100_000
"""Values in the free parts of a body."""

_INTEGRAL = "got `float`"


def _whole(text: str) -> float:
    number = float(text)
    return int(number) if abs(number) < 2**63 and number == int(number) else number


_WITH_INTEGERS = msgspec.json.Decoder(float_hook=_whole)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*?)`(?: - at `(.*?)`)?$")
_PLACE = re.compile(r"^(.*?)(?: - at `\$?\.?(.*?)`)?$", re.DOTALL)


async def read_body(exchange: Exchange) -> bytes:
    """The whole body.

    Raises:
        RefusedError: 413 if it is too big, 408 if it does not come in time.
    """
    request, settings = exchange.request, exchange.gateway.settings
    length = request.content_length
    if length is not None and length > settings.serve_max_body:
        raise _too_big(settings.serve_max_body)
    try:
        if request.content.is_eof():
            return await request.read()
        async with asyncio.timeout(settings.serve_body_timeout):
            return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise _too_big(settings.serve_max_body) from None
    except TimeoutError:
        raise RefusedError(
            408, "body_timeout", f"The body of the request did not come within {settings.serve_body_timeout:g} s."
        ) from None


def _too_big(limit: int) -> RefusedError:
    return RefusedError(413, "body_too_large", f"The body of the request is larger than {limit} bytes.")


def decode(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """A body as its struct.

    Raises:
        InvalidRequestError: no JSON, a field of the wrong type, or one that there is not.
    """
    if not body:
        raise InvalidRequestError("The request has no body; a JSON object is needed.")
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        if _INTEGRAL in str(error):
            # 4.0 is a whole number to JSON, and to what many clients are written in.
            try:
                return msgspec.convert(_WITH_INTEGERS.decode(body), decoder.type)
            except msgspec.ValidationError as other:
                error = other
        raise _wrong_field(str(error), decoder.type) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"The body is not JSON: {error}.") from None
    except RecursionError:
        raise InvalidRequestError("The body is nested too deeply.") from None


def _wrong_field(text: str, kind: Any) -> InvalidRequestError:
    """The decoder's complaint, with the field in front."""
    unknown = _UNKNOWN.match(text)
    if unknown is not None:
        name, place = unknown.group(1), (unknown.group(2) or "").removeprefix("$").removeprefix(".")
        fields = getattr(kind, "__struct_encode_fields__", ())
        near = difflib.get_close_matches(name, fields, n=1) if not place else []
        hint = f"Did you mean {near[0]}?" if near else "Leave it out: nothing is ignored without a word here."
        where = f"{place}.{name}" if place else name
        return InvalidRequestError(f"There is no parameter {where!r}.", param=where, hint=hint)
    match = _PLACE.match(text)
    reason, place = (match.group(1), match.group(2)) if match is not None else (text, None)
    missing = re.match(r"Object missing required field `(.*?)`", reason)
    if missing is not None:
        name = f"{place}.{missing.group(1)}" if place else missing.group(1)
        return InvalidRequestError(f"{name} is missing.", param=name)
    reason = reason[:1].lower() + reason[1:]
    return InvalidRequestError(f"{place or 'The body'} is not valid: {reason}.", param=place or None)


def bounded(value: Any, name: str) -> Any:
    """The same value, if it is neither too deep nor too big.

    Raises:
        InvalidRequestError: it is: what walks it later (validators, templates) may be recursive.
    """
    level, depth, nodes = [value], 0, 0
    while level:
        depth += 1
        nodes += len(level)
        if depth > MAX_DEPTH:
            raise InvalidRequestError(f"{name} is nested more than {MAX_DEPTH} levels deep.", param=name)
        if nodes > MAX_NODES:
            raise InvalidRequestError(f"{name} holds more than {MAX_NODES} values.", param=name)
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
        level = below
    return value
