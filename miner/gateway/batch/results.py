"""The results of a batch: OpenAI's two files, written from the rows whenever they are read."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator

import msgspec

from miner.gateway.context import new_id
from miner.gateway.store.batches import Batch, BatchStore, Row, RowState
from miner.gateway.store.files import Part, StoredFile

STATES: dict[Part, tuple[RowState, ...]] = {
    "output": ("succeeded",), "errors": ("errored", "cancelled", "expired")
}  # fmt: skip
_NOT_RUN = {
    "expired": ("batch_expired", "This request could not be executed before the completion window expired."),
    "cancelled": ("batch_cancelled", "This request was not executed: the batch was cancelled."),
}


async def all_rows(store: BatchStore, batch_id: str, states: tuple[RowState, ...]) -> AsyncIterator[Row]:
    """The rows in these states, in order, read page by page."""
    after = -1
    while rows := await store.rows(batch_id, after, states):
        for row in rows:
            yield row
        after = rows[-1].place


async def file_lines(store: BatchStore, batch_id: str, part: Part) -> AsyncIterator[bytes]:
    """The lines of a result file."""
    async for row in all_rows(store, batch_id, STATES[part]):
        yield _line(row)


async def result_files(store: BatchStore, batch: Batch, age: float) -> list[StoredFile]:
    """The result files of a batch whose rows have ended; their ids are noted in the batch.

    Args:
        age: seconds for which files are kept, unless the batch says less.
    """
    if batch.api != "openai":
        return []
    return [file async for file in _files(store, batch, age)]


async def _files(store: BatchStore, batch: Batch, age: float) -> AsyncIterator[StoredFile]:
    now, kept = time.time(), min(batch.details.results_age or age, age)
    for part, states in STATES.items():
        if not any(batch.counts.get(state) for state in states):
            continue
        size = 0
        async for line in file_lines(store, batch.id, part):
            size += len(line)
        file = StoredFile(
            f"file-{new_id()}", f"{batch.id}_{part}.jsonl", "batch_output", now, now + kept, size, batch.id, part
        )
        if part == "output":
            batch.details.output_file = file.id
        else:
            batch.details.error_file = file.id
        yield file


def _line(row: Row) -> bytes:
    return b"".join(_parts(row))


def _parts(row: Row) -> Iterator[bytes]:
    """A line, with the body of the response as it is stored."""
    head = msgspec.json.encode({"id": f"batch_req_{row.place}", "custom_id": row.custom_id})
    yield head[:-1]
    if row.result is None:
        code, message = _NOT_RUN.get(row.state, ("unknown", "There is no result."))
        yield b',"response":null,"error":' + msgspec.json.encode({"code": code, "message": message})
    else:
        yield b',"response":{"status_code":%d,"request_id":' % (row.http_status or 0)
        yield msgspec.json.encode(row.request_id) + b',"body":' + row.result + b'},"error":null'
    yield b"}\n"
