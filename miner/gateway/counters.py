"""Counters: the numbers that `/metrics` shows, counted cheaply for each set of labels.

No locks: everything is counted on the event loop.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable

from miner.core.wire import EngineStatus

_MAX_MODELS = 100
_DURATIONS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Buckets of request durations, in seconds."""
_TOKEN_DURATIONS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Buckets of time per output token, in seconds."""
_TOKENS = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0)
"""Buckets of tokens per request: those of OpenTelemetry's `gen_ai.client.token.usage`, as far as contexts reach."""


class Histogram:
    """Counts per bucket."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...] = _DURATIONS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value `times` times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def buckets(self) -> list[tuple[str, float]]:
        """Upper bounds with their cumulative counts, as Prometheus has them."""
        below, buckets = 0, []
        for bound, count in zip((*map(repr, self.bounds), "+Inf"), self.counts, strict=True):
            below += count
            buckets.append((bound, float(below)))
        return buckets


class ModelCounters:
    """Counters of one model."""

    __slots__ = ("duration", "input_tokens", "output_tokens", "time_per_output_token", "time_to_first_token")

    def __init__(self) -> None:
        self.duration: defaultdict[str, Histogram] = defaultdict(Histogram)
        """Seconds of requests, by the type of their error; "": none."""
        self.time_to_first_token = Histogram()
        """Seconds, of streams."""
        self.time_per_output_token = Histogram(_TOKEN_DURATIONS)
        """Seconds, of streams, after the first token."""
        self.input_tokens = Histogram(_TOKENS)
        self.output_tokens = Histogram(_TOKENS)


class ModelLabels:
    """Labels for models: names that a backend has served, at most `limit` of them.

    A client can send any name; that of a model that has not responded yet is "other".
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: set[str] = set()

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
        self.requests: defaultdict[tuple[str, str, int], Histogram] = defaultdict(Histogram)
        """Seconds of requests, by route, method and status."""
        self.queue_time = Histogram()
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
