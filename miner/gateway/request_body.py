"""Reading request bodies: bounded in size, time and depth, and wrong ones refused by the name of the field."""

from __future__ import annotations

import asyncio
import difflib
import re
from collections.abc import Callable, Sized
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from miner.errors import InvalidRequestError, MinerError
from miner.gateway.context import RequestContext
from miner.gateway.errors import RefusedError
from miner.gateway.structure import check_structure

__all__ = ["MAX_DEPTH", "MAX_SCHEMA", "bounded", "check_length", "decode", "decode_body", "off_loop", "parse_body"]

T = TypeVar("T")
P = TypeVar("P")

_BIG = 64 * 1024
"""Bytes from which a body is decoded in a thread."""
_thread = ThreadPoolExecutor(1, thread_name_prefix="miner body")
"""One: several that decode would hold the interpreter's lock in turn, and the event loop would wait for them all."""

MAX_DEPTH = 64
"""Levels of nesting in the free parts of a body: schemas, tools, metadata."""
MAX_NODES = 20_000
"""Values in a free part of a body."""
MAX_SCHEMA = 10_000
"""Values in one JSON Schema: with a type each, the 5000 properties that OpenAI takes."""
MAX_MESSAGES = 5_000
_LONE_SURROGATE = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])")
_LONGEST = 400
"""Characters of a decoder's complaint: it quotes names that the client has made up."""

_INTEGRAL = "got `float`"


def _whole(text: str) -> float:
    number = float(text)
    return int(number) if abs(number) < 2**63 and number == int(number) else number


_WITH_INTEGERS = msgspec.json.Decoder(float_hook=_whole)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*?)`(?: - at `(.*?)`)?$")
_PLACE = re.compile(r"^(.*?)(?: - at `\$?\.?(.*?)`)?$", re.DOTALL)


async def _read(context: RequestContext) -> list[bytes]:
    """The whole body in pieces, counted against the budget of all bodies until the request ends."""
    request, settings = context.request, context.gateway.settings
    most, length = settings.serve_max_body, request.content_length
    coding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        # A kilobyte of it can hold a megabyte.
        raise RefusedError(
            415, "unsupported_encoding", f"Content-Encoding {coding[:40]!r} is not supported.",
            hint="Send the body uncompressed.", headers={"Accept-Encoding": "identity"},
        )  # fmt: skip
    if length is not None and length > most:
        raise _too_big(most)
    try:
        if request.content.is_eof():
            return await _read_all(context)
        async with asyncio.timeout(settings.serve_body_timeout):
            return await _read_all(context)
    except web.RequestPayloadError:
        raise RefusedError(
            400, "invalid_http", "The body of the request is not valid HTTP: its chunks or its length are wrong."
        ) from None
    except TimeoutError:
        raise RefusedError(
            408, "body_timeout", f"The body of the request did not come within {settings.serve_body_timeout:g} s."
        ) from None


async def _read_all(context: RequestContext) -> list[bytes]:
    content, budget, most = context.request.content, context.gateway.bodies, context.gateway.settings.serve_max_body
    parts: list[bytes] = []
    while not content.at_eof():
        part = await content.readany()
        context.body_size += len(part)
        if context.body_size > most:
            raise _too_big(most)
        context.body_held = budget.grow(context.body_held, context.body_size)
        parts.append(part)
    return parts


async def parse_body(context: RequestContext, parse: Callable[[bytes], P]) -> P:
    """The body as `parse` reads it: a big one in a thread, one at a time, so that the event loop goes on meanwhile.

    Raises:
        RefusedError: 413 if it is too big, 408 if it does not come in time, 415 if it is compressed, 503 if there is no
            room for it.
        InvalidRequestError: it holds more than is ever needed, or what `parse` raises.
    """
    return await off_loop(context, _parsed, await _read(context), parse)


async def decode_body(context: RequestContext, decoder: msgspec.json.Decoder[T]) -> T:
    """The body as its struct. Errors are those of `parse_body` and `decode`."""
    return await parse_body(context, lambda raw: decode(raw, decoder))


async def off_loop(context: RequestContext, work: Callable[..., P], *arguments: Any) -> P:
    """Do something with what came in a body: in the thread for big ones, if it was a big one."""
    if context.body_size <= _BIG:
        return work(*arguments)
    done, error = await asyncio.get_running_loop().run_in_executor(_thread, _caught, work, *arguments)
    if error is not None:
        raise error
    return done  # type: ignore[return-value]


def _caught(work: Callable[..., P], *arguments: Any) -> tuple[P, None] | tuple[None, MinerError]:
    """What was made, or the error without its traceback: that would keep the body alive until the garbage collector
    comes, since whoever handles the error is part of it.
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
            # 4.0 is an integer to JSON, and to what many clients are written in.
            try:
                return msgspec.convert(_WITH_INTEGERS.decode(body), decoder.type)
            except msgspec.ValidationError as other:
                error = other
        raise _wrong_field(str(error), decoder.type) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        lone = _LONE_SURROGATE.search(body)
        if lone is not None and body.rstrip().endswith(b"}"):
            raise InvalidRequestError(
                f"The body is not valid Unicode: {lone.group().decode()} is half of a surrogate pair."
            ) from None
        raise InvalidRequestError(f"The body is not JSON: {error}.") from None
    except RecursionError:
        raise InvalidRequestError("The body is nested too deeply.") from None


def _wrong_field(text: str, kind: Any) -> InvalidRequestError:
    """The decoder's complaint, with the field in front."""
    if len(text) > 2 * _LONGEST:
        text = f"{text[:_LONGEST]}...{text[-_LONGEST:]}"
    unknown = _UNKNOWN.match(text)
    if unknown is not None:
        name, place = unknown.group(1), (unknown.group(2) or "").removeprefix("$").removeprefix(".")
        fields = getattr(kind, "__struct_encode_fields__", ())
        near = difflib.get_close_matches(name, fields, n=1) if not place else []
        hint = f"Did you mean {near[0]}?" if near else "Leave it out: nothing is ignored silently here."
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


def check_length(items: Sized | None, name: str, most: int = MAX_MESSAGES) -> None:
    """Refuse a list that is longer than anybody needs.

    Raises:
        InvalidRequestError: names it, with both numbers.
    """
    if items is not None and len(items) > most:
        raise InvalidRequestError(f"{name} holds {len(items)} items; {most} at most.", param=name)


def bounded(value: Any, name: str, most: int = MAX_NODES) -> Any:
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
        if nodes > most:
            raise InvalidRequestError(f"{name} holds more than {most} values.", param=name)
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
        level = below
    return value
