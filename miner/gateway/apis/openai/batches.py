"""OpenAI's `/v1/batches`: requests of a file, run behind interactive ones."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from miner.errors import InvalidRequestError
from miner.gateway.apis.fields import check_metadata
from miner.gateway.apis.openai.files import list_body
from miner.gateway.batch.requests import new_batch, page_size, stores
from miner.gateway.context import RequestContext, new_id
from miner.gateway.errors import RefusedError
from miner.gateway.generation import json_response
from miner.gateway.request_body import decode_body
from miner.gateway.store.batches import Batch, Details

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings", "/v1/rerank")
"""Routes that rows may call."""


class OutputExpiry(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How long the result files are kept."""

    anchor: str
    seconds: int


class BatchRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of `/v1/batches`."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None = None
    output_expires_after: OutputExpiry | None = None


_DECODER = msgspec.json.Decoder(BatchRequest)


async def create_batch(context: RequestContext) -> web.StreamResponse:
    """Create a batch; its file is checked soon after."""
    files, batches = stores(context)
    request = await decode_body(context, _DECODER)
    if request.endpoint not in ENDPOINTS:
        raise InvalidRequestError(
            f"endpoint must be one of {', '.join(ENDPOINTS)}, not {request.endpoint[:80]!r}.", param="endpoint"
        )
    if request.completion_window != "24h":
        raise InvalidRequestError(
            f"completion_window must be 24h, not {request.completion_window[:40]!r}.", param="completion_window"
        )
    check_metadata(request.metadata)
    expiry = request.output_expires_after
    if expiry is not None and (expiry.anchor != "created_at" or not 3600 <= expiry.seconds <= 2_592_000):
        raise InvalidRequestError(
            "output_expires_after must have the anchor created_at and 3600 to 2592000 seconds.",
            param="output_expires_after",
        )
    owner = context.caller.partition
    file = await files.find(owner, request.input_file_id)
    if file is None or file.purpose != "batch":
        what = "not found" if file is None else f"of the purpose {file.purpose!r}, not 'batch'"
        raise InvalidRequestError(
            f"The file {request.input_file_id[:100]!r} is {what}.", param="input_file_id",
            hint="Upload it to /v1/files with the purpose 'batch'.",
        )  # fmt: skip
    details = Details(
        input_file=file.id, metadata=request.metadata, results_age=None if expiry is None else float(expiry.seconds)
    )
    batch = new_batch(context, f"batch_{new_id()}", "openai", request.endpoint, details)
    await batches.create(batch)
    _wake(context)
    return json_response(context, msgspec.json.encode(batch_object(batch)))


def _wake(context: RequestContext) -> None:
    if context.gateway.batch_runner is not None:
        context.gateway.batch_runner.wake()


async def batches_list(context: RequestContext) -> web.StreamResponse:
    """List the caller's batches, the newest first."""
    _, batches = stores(context)
    query = context.request.query
    limit = page_size(query.get("limit"), 20, 100)
    found = await batches.list_batches(context.caller.partition, "openai")
    after = query.get("after")
    places = [place for place, batch in enumerate(found) if batch.id == after]
    if after is not None and not places:
        raise _not_found(after)
    start = places[0] + 1 if places else 0
    page = found[start : start + limit]
    more = start + limit < len(found)
    return json_response(context, list_body([batch_object(batch) for batch in page], more=more))


async def one_batch(context: RequestContext) -> web.StreamResponse:
    """Retrieve a batch."""
    return json_response(context, msgspec.json.encode(batch_object(await _find(context))))


async def cancel_batch(context: RequestContext) -> web.StreamResponse:
    """Cancel a batch: what runs is stopped, and what waits is not run."""
    batch = await _find(context)
    if batch.ended or batch.status == "finalizing":
        raise RefusedError(
            409, "batch_ended", f"The batch {batch.id} cannot be cancelled: its status is {batch.status}."
        )
    if batch.status != "cancelling" and context.gateway.batch_runner is not None:
        await context.gateway.batch_runner.cancel(batch)
    return json_response(context, msgspec.json.encode(batch_object(await _find(context))))


async def _find(context: RequestContext) -> Batch:
    _, batches = stores(context)
    batch_id = context.request.match_info["batch"]
    batch = await batches.find(context.caller.partition, batch_id)
    if batch is None or batch.api != "openai":
        raise _not_found(batch_id)
    return batch


def _not_found(batch_id: str) -> RefusedError:
    return RefusedError(404, "not_found", f"No batch found with id '{batch_id[:100]}'.", param="batch_id")


def batch_object(batch: Batch) -> dict[str, Any]:
    """A `batch`."""
    details, times, counts = batch.details, batch.details.times, batch.counts
    failed = sum(counts.get(state, 0) for state in ("errored", "expired", "cancelled"))
    prompt, cached, completion, reasoning = batch.usage

    def at(status: str) -> int | None:
        return int(times[status]) if status in times else None

    errors = {"object": "list", "data": details.errors} if details.errors else None
    return {
        "id": batch.id, "object": "batch", "endpoint": batch.endpoint, "model": None, "errors": errors,
        "input_file_id": details.input_file, "completion_window": details.window, "status": batch.status,
        "output_file_id": details.output_file, "error_file_id": details.error_file, "created_at": int(batch.created),
        "in_progress_at": at("in_progress"), "expires_at": int(batch.expires), "finalizing_at": at("finalizing"),
        "completed_at": at("completed"), "failed_at": at("failed"), "expired_at": at("expired"),
        "cancelling_at": at("cancelling"), "cancelled_at": at("cancelled"),
        "request_counts": {"total": batch.total, "completed": counts.get("succeeded", 0), "failed": failed},
        "usage": {
            "input_tokens": prompt, "input_tokens_details": {"cached_tokens": cached}, "output_tokens": completion,
            "output_tokens_details": {"reasoning_tokens": reasoning}, "total_tokens": prompt + completion,
        },
        "metadata": details.metadata,
    }  # fmt: skip
