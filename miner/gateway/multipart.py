"""Bodies of the type `multipart/form-data`: an upload and the fields beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message

from aiohttp.base_protocol import BaseProtocol
from aiohttp.multipart import BodyPartReader, MultipartReader
from aiohttp.streams import StreamReader

from miner.errors import InvalidRequestError
from miner.gateway.context import RequestContext
from miner.gateway.request_body import read_body

_MAX_PARTS = 64
_MAX_LINE = 256
_LARGE = 1 << 18
"""Bytes of a body that are decoded off the event loop."""


@dataclass(slots=True)
class Form:
    """A decoded form."""

    fields: dict[str, str] = field(default_factory=dict)
    files: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    """File name and content, by the name of the field."""


async def read_form(context: RequestContext) -> Form:
    """Read and decode the body; it is bounded as every body is.

    Raises:
        InvalidRequestError: it is no valid form.
        RefusedError: as `request_body.parse_body` says.
    """
    if not context.request.content_type.startswith("multipart/"):
        raise InvalidRequestError("The request body must be multipart/form-data.", hint="Send a form with the file.")
    body = await read_body(context)
    headers = context.request.headers
    if len(body) <= _LARGE:
        return await _parse(headers, body)
    # In a thread, with an event loop of its own: 30 MB take 0.3 s, in which nobody else would get a token.
    return await asyncio.to_thread(asyncio.run, _parse(headers, body))


async def _parse(headers: Mapping[str, str], body: bytes) -> Form:
    loop = asyncio.get_running_loop()
    # All of it is here already: without this limit the reader would pause a connection that it does not have.
    stream = StreamReader(BaseProtocol(loop), len(body) + 1, loop=loop)
    stream.feed_data(body)
    stream.feed_eof()
    form, parts = Form(), 0
    try:
        reader = MultipartReader(headers, stream)
        _check_beginning(headers, body)
        while (part := await reader.next()) is not None:
            if not isinstance(part, BodyPartReader) or not part.name:
                raise ValueError("a part has no name")
            parts += 1
            if parts > _MAX_PARTS:
                raise ValueError(f"it has more than {_MAX_PARTS} parts")
            content = bytes(await part.read(decode=True))
            if part.filename is not None:
                form.files[part.name] = (part.filename, content)
            else:
                form.fields[part.name] = content.decode()
    except Exception as error:  # noqa: BLE001 - of decoders, of the HTTP parser, of asserts: whatever its steps raise
        raise InvalidRequestError(f"The request body is not a valid form: {error}.") from None
    return form


def _check_beginning(headers: Mapping[str, str], body: bytes) -> None:
    """Refuse text before the first part, which no client sends: the reader would go through it line by line."""
    message = Message()
    message["Content-Type"] = headers.get("Content-Type", "")
    boundary = (message.get_boundary() or "").encode()
    if body[:_MAX_LINE].lstrip(b"\r\n").partition(b"\n")[0].rstrip() not in (
        b"--" + boundary,
        b"--" + boundary + b"--",
    ):
        raise ValueError("it does not begin with its boundary")
