"""Metrics of several workers as one: each writes what it has counted to its page, and the one that is asked sums up.

Who takes a dead worker's place goes on from its page, so that no counter ever goes back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from miner.gateway.series import Histogram

if TYPE_CHECKING:
    from miner.gateway.metrics import Metrics

__all__ = ["add_page", "page_of"]


class _Times(msgspec.Struct, array_like=True):
    counts: list[int]
    total: float


class _Model(msgspec.Struct, array_like=True):
    first: _Times
    between: _Times
    tokens_in: int
    tokens_out: int
    cancelled: int


class _Page(msgspec.Struct, array_like=True):
    requests: list[tuple[str, str, int, int]]
    seconds: dict[str, _Times]
    queue: _Times
    cancelled: int
    models: dict[str, _Model]
    loads: dict[str, int]


_decoder = msgspec.msgpack.Decoder(_Page)


def page_of(counted: Metrics) -> bytes:
    """What this worker has counted."""
    return msgspec.msgpack.encode(
        _Page(
            [(*labels, count) for labels, count in counted.requests.items()],
            {route: _times(histogram) for route, histogram in counted.seconds.items()},
            _times(counted.queue),
            counted.cancelled,
            {
                name: _Model(_times(s.first), _times(s.between), s.tokens_in, s.tokens_out, s.cancelled)
                for name, s in counted.models.items()
            },
            dict(counted.loads),
        )
    )


def add_page(counted: Metrics, data: bytes) -> None:
    """Add what a page tells; b"" tells nothing."""
    if not data:
        return
    page = _decoder.decode(data)
    for route, method, status, count in page.requests:
        counted.requests[route, method, status] += count
    for route, times in page.seconds.items():
        _add(counted.seconds[route], times)
    _add(counted.queue, page.queue)
    counted.cancelled += page.cancelled
    for name, told in page.models.items():
        series = counted.models[counted.names.proved(name)]
        _add(series.first, told.first)
        _add(series.between, told.between)
        series.tokens_in += told.tokens_in
        series.tokens_out += told.tokens_out
        series.cancelled += told.cancelled
    counted.loads.update(page.loads)


def _times(histogram: Histogram) -> _Times:
    return _Times(histogram.counts, histogram.total)


def _add(histogram: Histogram, times: _Times) -> None:
    histogram.counts = [one + more for one, more in zip(histogram.counts, times.counts, strict=True)]
    histogram.total += times.total
