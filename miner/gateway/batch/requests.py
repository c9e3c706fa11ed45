"""What the routes of files and batches share, in both APIs that have batches."""

from __future__ import annotations

import time
from typing import Any

from miner.errors import InvalidRequestError
from miner.gateway.context import RequestContext
from miner.gateway.errors import RefusedError
from miner.gateway.store.batches import Batch, BatchStore, Details
from miner.gateway.store.files import FileStore
from miner.gateway.unsupported import HEADER

WINDOW_SECONDS = 86_400.0
"""Seconds within which a batch is run."""


def stores(context: RequestContext) -> tuple[FileStore, BatchStore]:
    """The stores of files and batches.

    Raises:
        RefusedError: nothing is stored here.
    """
    gateway = context.gateway
    if gateway.files is None or gateway.batches is None:
        raise RefusedError(
            501, "not_stored", "This server stores no files and batches.", hint="Send the requests one by one.",
            operator_hint="MINER_SERVE_STORE switches it on.",
        )  # fmt: skip
    return gateway.files, gateway.batches


def new_batch(context: RequestContext, batch_id: str, api: Any, endpoint: str, details: Details) -> Batch:
    """A batch of the caller's, not yet stored."""
    now = time.time()
    details.peer = context.peer
    details.unsupported = context.request.headers.get(HEADER)
    status: Any = "validating" if api == "openai" else "in_progress"
    details.times = {status: now}
    return Batch(context.caller.partition, batch_id, api, endpoint, status, now, now + WINDOW_SECONDS, details)


def page_size(text: str | None, default: int, most: int) -> int:
    """The `limit` of a query.

    Raises:
        InvalidRequestError: it is not a number of the range.
    """
    if text is None:
        return default
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise InvalidRequestError(f"limit must be from 1 to {most}, not {text[:40]!r}.", param="limit")
    return int(text)
