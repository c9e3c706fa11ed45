"""The progress of a measurement in lines: one when a run begins, one with its figures when it ends."""

from __future__ import annotations

import statistics
from time import perf_counter

from miner.cli.bench.progress import FinishedRequest, Progress, StartedRun
from miner.cli.output.errors import note
from miner.core._typing import override


class PlainProgress(Progress):
    """Writes to standard error."""

    def __init__(self) -> None:
        self._began = 0.0
        self._finished = self._failed = self._tokens = 0
        self._ttft: list[float] = []

    @override
    def run_started(self, run: StartedRun, total: int) -> None:
        self._began = perf_counter()
        self._finished = self._failed = self._tokens = 0
        self._ttft.clear()
        note(f"miner: {run.name}: {f'{total} requests' if total else 'sending'} ...")

    @override
    def request_started(self) -> None:
        pass

    @override
    def tokens(self, count: int) -> None:
        self._tokens += count

    @override
    def request_finished(self, sample: FinishedRequest) -> None:
        self._finished += 1
        self._failed += sample.error is not None
        if sample.ttft is not None:
            self._ttft.append(sample.ttft)

    @override
    def run_finished(self, run: StartedRun) -> None:
        seconds = max(perf_counter() - self._began, 1e-9)
        parts = [f"{self._finished} requests in {seconds:.1f} s"]
        if self._failed:
            parts.append(f"{self._failed} failed")
        if self._ttft:
            parts.append(f"first token after {statistics.median(self._ttft) * 1000:.0f} ms (median)")
        if self._tokens:
            parts.append(f"{self._tokens / seconds:.1f} tokens/s")
        note(f"miner: {run.name}: {', '.join(parts)}")
