"""What a measurement reports while it runs, to whoever shows it.

The calls come from the event loop that measures, `tokens` for every batch that arrives: an implementation counts, and
draws at another time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from miner.cli.bench.statistics import Statistics
from miner.core._typing import override


class StartedRun(Protocol):
    """A run that is to be measured: one concurrency or rate, once."""

    @property
    def name(self) -> str:
        """Names the run for people, such as `concurrency 4` or `rate 2/s, round 3`."""


class FinishedRun(Protocol):
    """What came of a run: the figures of its result."""

    @property
    def completed(self) -> int:
        """Requests that went to their end; only their tokens and times are in the figures."""

    @property
    def cancelled(self) -> int:
        """Requests that were cancelled on purpose."""

    @property
    def failed(self) -> int:
        """Requests that ended with an error."""

    @property
    def errors(self) -> Mapping[str, int]:
        """These by code."""

    @property
    def duration(self) -> float:
        """Seconds."""

    @property
    def output_throughput(self) -> float:
        """Output tokens per second."""

    @property
    def ttft(self) -> Statistics | None:
        """Time to first token; None: no request has one."""


class FinishedRequest(Protocol):
    """What came of one request; times in seconds."""

    @property
    def ttft(self) -> float | None:
        """From sending to the first token; None: none came."""

    @property
    def e2e(self) -> float | None:
        """From sending to the end; None: it did not end well."""

    @property
    def output_tokens(self) -> int:
        """Tokens that arrived."""

    @property
    def error(self) -> str | None:
        """The code of the error that it ended with; None: it succeeded, or was cancelled on purpose."""


class Progress(Protocol):
    """Sees a measurement of one or more runs, one after another."""

    def run_started(self, run: StartedRun, total: int) -> None:
        """A run begins.

        Args:
            total: the requests that it will send; 0: that is not known (a run for a time).
        """

    def request_started(self) -> None:
        """A request is sent."""

    def tokens(self, count: int) -> None:
        """So many tokens arrived, of any request."""

    def request_finished(self, sample: FinishedRequest) -> None:
        """A request has ended, well or not."""

    def run_finished(self, run: FinishedRun) -> None:
        """The run is over, or was stopped."""


class NoProgress(Progress):
    """Shows nothing."""

    @override
    def run_started(self, run: StartedRun, total: int) -> None:
        pass

    @override
    def request_started(self) -> None:
        pass

    @override
    def tokens(self, count: int) -> None:
        pass

    @override
    def request_finished(self, sample: FinishedRequest) -> None:
        pass

    @override
    def run_finished(self, run: FinishedRun) -> None:
        pass
