"""OpenAI's `/v1/files`: the input and the results of batches."""

from __future__ import annotations

import re
import time
from typing import Any

import msgspec
from aiohttp import web

from miner.errors import InvalidRequestError
from miner.gateway.batch.requests import page_size, stores
from miner.gateway.batch.results import file_lines
from miner.gateway.context import RequestContext, new_id
from miner.gateway.errors import RefusedError
from miner.gateway.generation import json_response
from miner.gateway.multipart import read_form
from miner.gateway.store.files import StoredFile

PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
_MAX_NAME = 512
_MAX_PAGE = 10_000
_UNSAFE = re.compile(r'[\x00-\x1f\x7f"\\]')
_AGES = (3600, 2_592_000)
"""Seconds that `expires_after` may name, as at OpenAI."""


async def upload(context: RequestContext) -> web.StreamResponse:
    """Store a file."""
    files, _ = stores(context)
    form = await read_form(context)
    if "file" not in form.files:
        raise InvalidRequestError("Missing required parameter: 'file'.", param="file", hint="Send it as a file.")
    purpose = form.fields.get("purpose")
    if purpose not in PURPOSES:
        raise InvalidRequestError(f"purpose must be one of {', '.join(PURPOSES)}, not {purpose!r}.", param="purpose")
    name, content = form.files["file"]
    if not content:
        raise InvalidRequestError("The file is empty.", param="file")
    now = time.time()
    age = _seconds(form.fields, files.age)
    file = StoredFile(f"file-{new_id()}", name[:_MAX_NAME], purpose, now, now + age, len(content))
    await files.add(context.caller.partition, file, content)
    return json_response(context, msgspec.json.encode(file_object(file)))


async def files_list(context: RequestContext) -> web.StreamResponse:
    """List the caller's files, the newest first."""
    files, _ = stores(context)
    query = context.request.query
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidRequestError(f"order must be asc or desc, not {order!r:.80}.", param="order")
    limit = page_size(query.get("limit"), _MAX_PAGE, _MAX_PAGE)
    after = query.get("after")
    if after is not None and await files.find(context.caller.partition, after) is None:
        raise _not_found(after)
    found = await files.list_files(
        context.caller.partition, purpose=query.get("purpose"), after=after, limit=limit + 1,
        ascending=order == "asc",
    )  # fmt: skip
    return json_response(context, list_body([file_object(file) for file in found[:limit]], more=len(found) > limit))


async def one_file(context: RequestContext) -> web.StreamResponse:
    """Retrieve a file's description."""
    return json_response(context, msgspec.json.encode(file_object(await _find(context))))


async def content(context: RequestContext) -> web.StreamResponse:
    """Download a file's content."""
    file = await _find(context)
    files, batches = stores(context)
    headers = context.headers("application/octet-stream")
    headers["Content-Disposition"] = f'attachment; filename="{_UNSAFE.sub("_", file.name)}"'
    if file.batch is None or file.part is None:
        body = await files.content(context.caller.partition, file.id)
        if body is None:
            raise _not_found(file.id)
        context.status = 200
        return web.Response(body=body, headers=headers)
    context.status, context.headers_sent = 200, True
    response = web.StreamResponse(headers=headers)
    response.content_length = file.bytes
    await response.prepare(context.request)
    async for line in file_lines(batches, file.batch, file.part):
        await response.write(line)
    await response.write_eof()
    return response


async def delete_file(context: RequestContext) -> web.StreamResponse:
    """Delete a file."""
    files, _ = stores(context)
    file_id = context.request.match_info["file"]
    if not await files.delete(context.caller.partition, file_id):
        raise _not_found(file_id)
    return json_response(context, msgspec.json.encode({"id": file_id, "object": "file", "deleted": True}))


async def _find(context: RequestContext) -> StoredFile:
    files, _ = stores(context)
    file_id = context.request.match_info["file"]
    file = await files.find(context.caller.partition, file_id)
    if file is None:
        raise _not_found(file_id)
    return file


def _not_found(file_id: str) -> RefusedError:
    return RefusedError(404, "not_found", f"No such File object: {file_id[:100]}.", param="id")


def _seconds(fields: dict[str, str], default: float) -> float:
    text = fields.get("expires_after[seconds]")
    if text is None:
        return default
    if not text.isdecimal() or not _AGES[0] <= int(text) <= _AGES[1]:
        raise InvalidRequestError(
            f"expires_after.seconds must be from {_AGES[0]} to {_AGES[1]}, not {text[:40]!r}.",
            param="expires_after.seconds",
        )
    return min(default, float(text))


class FileForm(msgspec.Struct, kw_only=True):
    """The form of an upload."""

    file: bytes
    purpose: str


def file_object(file: StoredFile) -> dict[str, Any]:
    """A `file`."""
    return {
        "id": file.id, "object": "file", "bytes": file.bytes, "created_at": int(file.created),
        "expires_at": int(file.expires), "filename": file.name, "purpose": file.purpose, "status": "processed",
        "status_details": None,
    }  # fmt: skip


def list_body(data: list[dict[str, Any]], *, more: bool) -> bytes:
    """A page of a list."""
    ids = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
    return msgspec.json.encode({"object": "list", "data": data, **ids, "has_more": more})
