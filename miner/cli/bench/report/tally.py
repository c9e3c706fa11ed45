"""What is known of a run while it runs."""

from __future__ import annotations

from bisect import insort
from collections import deque
from itertools import pairwise
from time import monotonic

from miner.cli.bench.progress import FinishedRequest, StartedRun
from miner.cli.bench.statistics import percentile

BUCKET = 0.5
"""Seconds that one bar of the sparkline stands for."""
BUCKETS = 24


class Tally:
    """Counts what a run reports. All that is called for a batch of tokens is an addition."""

    def __init__(self, run: StartedRun, number: int, total: int) -> None:
        self.name = run.name
        self.number = number
        self.total = total
        """Requests; 0: not known."""
        self.began = monotonic()
        self.started = 0
        self.done = 0
        self.failed = 0
        self.cancelled = 0
        self.tokens = 0
        self.ttfts: list[float] = []
        """Sorted."""
        self._marks: deque[tuple[float, int]] = deque([(self.began, 0)], maxlen=BUCKETS + 1)

    def finished(self, sample: FinishedRequest) -> None:
        """Count a request that has ended."""
        if sample.error is not None:
            self.failed += 1
        elif sample.e2e is None:
            self.cancelled += 1
        else:
            self.done += 1
        if sample.ttft is not None and sample.error is None and sample.output_tokens > 0:
            insort(self.ttfts, sample.ttft)

    @property
    def ended(self) -> int:
        """Requests that have ended, in whatever way."""
        return self.done + self.failed + self.cancelled

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return monotonic() - self.began

    def ttft(self, share: int) -> float | None:
        """A percentile of the time to first token so far."""
        return percentile(self.ttfts, share) if self.ttfts else None

    def left(self) -> float | None:
        """Seconds until the run ends, by its speed so far; None: not known."""
        if not self.total or not self.ended:
            return None
        return self.elapsed / self.ended * max(0, self.total - self.ended)

    def mark(self) -> None:
        """Close a bucket of the sparkline where its time is over."""
        now = monotonic()
        if now - self._marks[-1][0] >= BUCKET:
            self._marks.append((now, self.tokens))

    def speeds(self) -> list[float]:
        """Tokens per second of the last buckets, the oldest first."""
        marks = list(self._marks)
        return [
            (after - before) / (end - start)
            for (start, before), (end, after) in pairwise(marks)
        ]  # fmt: skip

    def speed(self) -> float:
        """Tokens per second so far, those of requests in flight, cancelled and failed ones included."""
        return self.tokens / self.elapsed if self.elapsed > 0 else 0.0
