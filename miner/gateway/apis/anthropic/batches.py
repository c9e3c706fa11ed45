"""Anthropic's `/v1/messages/batches`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
from aiohttp import web

from miner.errors import InvalidRequestError
from miner.gateway.batch.input_file import MAX_ROWS, InvalidLine, body_of
from miner.gateway.batch.requests import new_batch, page_size, stores
from miner.gateway.batch.results import all_rows
from miner.gateway.context import RequestContext, new_id
from miner.gateway.errors import RefusedError
from miner.gateway.generation import json_response
from miner.gateway.request_body import decode_body
from miner.gateway.store.batches import Batch, Details, Row, RowState

_MAX_PAGE = 1000
_ENDED: tuple[RowState, ...] = ("succeeded", "errored", "cancelled", "expired")


class MessageBatchItem(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One request of a batch."""

    custom_id: str
    params: dict[str, Any]
    """The body of `/v1/messages`."""


class MessageBatchRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of `/v1/messages/batches`."""

    requests: list[MessageBatchItem]
    user_profile_id: str | None = None


_DECODER = msgspec.json.Decoder(MessageBatchRequest)


async def create_batch(context: RequestContext) -> web.StreamResponse:
    """Create a batch."""
    _, batches = stores(context)
    foreign: dict[str, Any] = {}
    request = await decode_body(context, _DECODER, foreign)
    rows = _rows(request)
    batch = new_batch(context, f"msgbatch_{new_id()}", "anthropic", "/v1/messages", Details())
    await batches.create(batch, rows)
    batch.counts = {"pending": len(rows)}
    if context.gateway.batch_runner is not None:
        context.gateway.batch_runner.wake()
    return _response(context, batch)


def _rows(request: MessageBatchRequest) -> list[tuple[str, bytes]]:
    if not 1 <= len(request.requests) <= MAX_ROWS:
        raise InvalidRequestError(
            f"requests must have 1 to {MAX_ROWS} items, not {len(request.requests)}.", param="requests"
        )
    rows: list[tuple[str, bytes]] = []
    seen: set[str] = set()
    for place, item in enumerate(request.requests):
        where = f"requests[{place}]"
        if not 1 <= len(item.custom_id) <= 64:
            raise InvalidRequestError(f"{where}.custom_id must have 1 to 64 characters.", param=f"{where}.custom_id")
        if item.custom_id in seen:
            raise InvalidRequestError(
                f"{where}.custom_id {item.custom_id!r} is not unique.", param=f"{where}.custom_id"
            )
        seen.add(item.custom_id)
        try:
            rows.append((item.custom_id, body_of(item.params, f"{where}.params", None)))
        except InvalidLine as error:
            raise InvalidRequestError(str(error), param=error.errors[0]["param"]) from None
    return rows


async def batches_list(context: RequestContext) -> web.StreamResponse:
    """List the caller's batches, the newest first."""
    _, batches = stores(context)
    query = context.request.query
    limit = page_size(query.get("limit"), 20, _MAX_PAGE)
    found = await batches.list_batches(context.caller.partition, "anthropic")
    ids = [batch.id for batch in found]
    for name in ("after_id", "before_id"):
        if name in query and query[name] not in ids:
            raise _not_found(query[name])
    if "before_id" in query:
        end = ids.index(query["before_id"])
        start = max(0, end - limit)
        page, more = found[start:end], start > 0
    else:
        start = ids.index(query["after_id"]) + 1 if "after_id" in query else 0
        page, more = found[start : start + limit], start + limit < len(found)
    body = {
        "data": [batch_object(context, batch) for batch in page],
        "has_more": more,
        "first_id": page[0].id if page else None,
        "last_id": page[-1].id if page else None,
    }
    return json_response(context, msgspec.json.encode(body))


async def one_batch(context: RequestContext) -> web.StreamResponse:
    """Retrieve a batch."""
    return _response(context, await _find(context))


async def cancel_batch(context: RequestContext) -> web.StreamResponse:
    """Cancel a batch: what runs is stopped, and what waits is not run."""
    batch = await _find(context)
    if not batch.ended and batch.status != "cancelling" and context.gateway.batch_runner is not None:
        await context.gateway.batch_runner.cancel(batch)
        batch = await _find(context)
    return _response(context, batch)


async def delete_batch(context: RequestContext) -> web.StreamResponse:
    """Delete a batch that has ended."""
    batch = await _find(context)
    if not batch.ended:
        raise InvalidRequestError(f"The batch {batch.id} has not ended.", hint="Cancel it first.")
    await stores(context)[1].delete(context.caller.partition, batch.id)
    return json_response(context, msgspec.json.encode({"id": batch.id, "type": "message_batch_deleted"}))


async def results(context: RequestContext) -> web.StreamResponse:
    """The results, one line for each request."""
    batch = await _find(context)
    if not batch.ended:
        raise InvalidRequestError(
            f"The batch {batch.id} has no results yet: it is {_processing_status(batch)}.",
            hint="Wait until its processing_status is ended.",
        )
    context.status, context.headers_sent = 200, True
    response = web.StreamResponse(headers=context.headers("application/x-jsonl"))
    await response.prepare(context.request)
    async for row in all_rows(stores(context)[1], batch.id, _ENDED):
        await response.write(_line(row))
    await response.write_eof()
    return response


async def _find(context: RequestContext) -> Batch:
    batch_id = context.request.match_info["batch"]
    batch = await stores(context)[1].find(context.caller.partition, batch_id)
    if batch is None or batch.api != "anthropic":
        raise _not_found(batch_id)
    return batch


def _not_found(batch_id: str) -> RefusedError:
    return RefusedError(404, "not_found", f"No message batch with id '{batch_id[:100]}'.")


def _response(context: RequestContext, batch: Batch) -> web.Response:
    return json_response(context, msgspec.json.encode(batch_object(context, batch)))


def _processing_status(batch: Batch) -> str:
    return "ended" if batch.ended else "canceling" if batch.status == "cancelling" else "in_progress"


def batch_object(context: RequestContext, batch: Batch) -> dict[str, Any]:
    """A `message_batch`. Counts besides `processing` are known at its end, as at Anthropic."""
    times, counts = batch.details.times, batch.counts
    ended_at = next((times[status] for status in ("completed", "cancelled", "expired") if status in times), None)
    counted = {
        "succeeded": counts.get("succeeded", 0), "errored": counts.get("errored", 0),
        "canceled": counts.get("cancelled", 0), "expired": counts.get("expired", 0),
    }  # fmt: skip
    if not batch.ended:
        counted = dict.fromkeys(counted, 0)
    request = context.request
    return {
        "id": batch.id,
        "type": "message_batch",
        "processing_status": _processing_status(batch),
        "request_counts": {"processing": batch.total - sum(counted.values()), **counted},
        "created_at": _date(batch.created),
        "expires_at": _date(batch.expires),
        "ended_at": _date(ended_at),
        "cancel_initiated_at": _date(times.get("cancelling")),
        "archived_at": None,
        "results_url": f"{request.scheme}://{request.host}/v1/messages/batches/{batch.id}/results"
        if batch.ended
        else None,
    }


def _date(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _line(row: Row) -> bytes:
    head = msgspec.json.encode({"custom_id": row.custom_id})[:-1] + b',"result":'
    if row.state == "succeeded" and row.result is not None:
        return head + b'{"type":"succeeded","message":' + row.result + b"}}\n"
    if row.state == "errored" and row.result is not None:
        return head + b'{"type":"errored","error":' + row.result + b"}}\n"
    return head + msgspec.json.encode({"type": "canceled" if row.state == "cancelled" else "expired"}) + b"}\n"
