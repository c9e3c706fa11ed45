"""Counters: the numbers that `/metrics` shows, counted cheaply for each set of labels.

No locks: everything is counted on the event loop.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set

from miner.core.wire import EngineStatus
from miner.gateway.telemetry import conventions as names

_MAX_MODELS = 100
_WAITS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Buckets of waits in queues, in seconds; the others are the conventions'."""


class Histogram:
    """Counts per bucket."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def copy(self) -> Histogram:
        """The same counts, which do not change."""
        other = Histogram(self.bounds)
        other.counts, other.total = [*self.counts], self.total
        return other

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value `times` times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    @property
    def count(self) -> int:
        """How many values were counted."""
        return sum(self.counts)

    def buckets(self) -> list[tuple[str, float]]:
        """Upper bounds with their cumulative counts, as Prometheus has them."""
        below, buckets = 0, []
        for bound, count in zip((*map(repr, self.bounds), "+Inf"), self.counts, strict=True):
            below += count
            buckets.append((bound, float(below)))
        return buckets


def _durations() -> Histogram:
    return Histogram(names.DURATION_BUCKETS)


def _http_durations() -> Histogram:
    return Histogram(names.HTTP_BUCKETS)


class ModelCounters:
    """Counters of one model."""

    __slots__ = (
        "cached_tokens", "duration", "input_tokens", "output_tokens", "reasoning_tokens", "time_per_output_token",
        "time_to_first_token",
    )  # fmt: skip

    def __init__(self) -> None:
        self.duration: defaultdict[str, Histogram] = defaultdict(_durations)
        """Seconds of requests, by the type of their error; "": none."""
        self.time_to_first_token = Histogram(names.FIRST_TOKEN_BUCKETS)
        """Seconds, of streams."""
        self.time_per_output_token = Histogram(names.OUTPUT_TOKEN_BUCKETS)
        """Seconds, of streams, after the first token."""
        self.input_tokens = Histogram(names.TOKEN_BUCKETS)
        self.output_tokens = Histogram(names.TOKEN_BUCKETS)
        self.cached_tokens = 0
        """Of the input, found in a KV cache."""
        self.reasoning_tokens = 0
        """Of the output."""


Samples = Mapping[str, Sequence[tuple[Sequence[str], float | Histogram]]]
"""Name of a metric in Prometheus -> its labels' values and what they have."""


class ModelLabels:
    """Labels for models: names that a backend has served, at most `limit` of them.

    A client can send any name; that of a model that has not responded yet is "other".
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: set[str] = set()

    @property
    def known(self) -> Set[str]:
        """The names that are labels of their own."""
        return self._known

    def served(self, name: str) -> str:
        """The label of a model that has responded."""
        if name not in self._known:
            if len(self._known) >= self._limit or len(name) > 200:
                return "other"
            self._known.add(name)
        return name

    def requested(self, name: str) -> str:
        """The label of a model that a client has named."""
        return name if name in self._known else "other"


class Counters:
    """All counters. Labels are bounded: routes of the table, HTTP's methods, at most 100 models."""

    def __init__(self) -> None:
        self.requests: defaultdict[tuple[str, str, int], Histogram] = defaultdict(_http_durations)
        """Seconds of requests, by route, method and status."""
        self.queue_time = Histogram(_WAITS)
        """Seconds that requests waited for a slot."""
        self.disconnects = 0
        """Clients that left before their response was complete."""
        self.models: defaultdict[tuple[str, str], ModelCounters] = defaultdict(ModelCounters)
        """(Operation, label of the model) -> counters."""
        self.cost: defaultdict[str, float] = defaultdict(float)
        """What requests cost, by the label of the model."""
        self.labels = ModelLabels(_MAX_MODELS)
        self.engine_starts: Counter[str] = Counter()
        """Engine processes seen, by model."""
        self._engines: dict[str, tuple[int | None, int]] = {}

    def count_engines(self, engines: Iterable[EngineStatus]) -> None:
        """Count the processes that are new since the last call."""
        for engine in engines:
            process = (engine.pid, engine.restarts)
            if engine.pid is not None and self._engines.get(engine.model) != process:
                self.engine_starts[engine.model] += 1
                self._engines[engine.model] = process
