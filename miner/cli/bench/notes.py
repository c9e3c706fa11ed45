"""What a reader of the figures must know."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from miner.cli.bench.measure import Measurement
from miner.cli.bench.result import Run, Workload
from miner.core.counted import counted

_LATE = 0.005
"""p99 of the event loop's lag in seconds, above which the client itself distorts latencies."""
_CACHED = 0.1
"""Share of the prompt's tokens found in a cache, above which it matters."""


class Observed:
    """Gathers from all runs what notes are made of."""

    def __init__(self) -> None:
        self.requests = self.without_usage = self.short = self.bundled = self.unstreamed = self.tokens = self.chunks = 0
        self.prompt_tokens = self.cached_tokens = self.refused = 0
        self.retry_after: float | None = None
        self.beside_failed = self.beside = self.cancelled = 0

    def add(self, seen: Sequence[Measurement], endpoint: str, prompt_tokens: int) -> None:
        """The requests of one run, and the tokens of their prompts without the chat template."""
        stops = sorted(each.done for each in seen if each.cancelled)
        self.cancelled += len(stops)
        for each in seen:
            self._beside(each, stops)
            if each.code == "429" or each.code == "overloaded":
                self.refused += 1
                if each.retry_after is not None:
                    self.retry_after = max(self.retry_after or 0.0, each.retry_after)
            if each.completed and endpoint != "embeddings":
                self._completed(each, prompt_tokens)

    def _completed(self, each: Measurement, prompt_tokens: int) -> None:
        self.requests += 1
        self.without_usage += each.completion_tokens is None
        self.short += each.output_tokens < each.max_tokens
        self.unstreamed += each.chunks == 1 and each.output_tokens > 1
        self.tokens += each.output_tokens
        self.chunks += each.chunks
        if each.prompt_tokens and each.cached_tokens:  # the chat template is the same in all prompts
            self.cached_tokens += max(0, each.cached_tokens - max(0, each.prompt_tokens - prompt_tokens))
        self.prompt_tokens += prompt_tokens

    def _beside(self, each: Measurement, stops: list[float]) -> None:
        """Whether another request was cancelled while this one ran, and this one failed.

        Args:
            stops: when requests were cancelled, sorted.
        """
        if not each.cancelled and bisect_right(stops, each.began) < bisect_left(stops, each.done):
            self.beside += 1
            self.beside_failed += each.code is not None


def notes(observed: Observed, runs: Sequence[Run], workload: Workload, *, free: bool | None) -> list[str]:
    """The notes of a measurement.

    Args:
        free: whether the target responded after cancellations; None: there were none.
    """
    found: list[str] = []
    requests = observed.requests
    if any(run.partial for run in runs):
        found.append("The measurement was stopped: its last run is partial, and runs after it are missing.")
    if workload.tokens_counted_by == "usage":
        found.append(
            "The target has no tokenizer route: prompt lengths were fitted with the prompt_tokens that it reports."
        )
    if observed.without_usage:
        found.append(
            f"{observed.without_usage} of {counted(requests, 'response')} came without usage: their tokens were counted"
            " by chunks, which is too few where a chunk carries several."
        )
    elif requests and observed.unstreamed == requests:
        found.append("The server does not stream: each response came in one piece, so TTFT is E2E, and TPOT is 0.")
    elif observed.tokens > 1.1 * observed.chunks > 0:
        found.append(
            f"Chunks carry {observed.tokens / observed.chunks:.1f} tokens on average: ITL is the gap between chunks;"
            " TPOT is the time per token."
        )
    if observed.short and not workload.ignore_eos:
        found.append(
            f"{observed.short} of {counted(requests, 'response')} ended before --max-tokens: the model was done."
            " --ignore-eos makes them equally long on vLLM and llama.cpp."
        )
    elif observed.short:
        found.append(
            f"{observed.short} of {counted(requests, 'response')} ended before --max-tokens in spite of --ignore-eos."
        )
    planned = workload.shared_prefix or workload.turns > 1
    if observed.prompt_tokens and observed.cached_tokens > _CACHED * observed.prompt_tokens and not planned:
        share = observed.cached_tokens / observed.prompt_tokens
        found.append(
            f"{share:.0%} of the prompts' tokens came from the server's prefix cache, though all differ: it has seen"
            " them before, with the same --seed. TTFT is too short by as much."
        )
    if observed.refused:
        wait = f", and asked to wait {observed.retry_after:g} s" if observed.retry_after is not None else ""
        found.append(
            f"The server refused {counted(observed.refused, 'request')} because it had too many{wait}."
            " None was sent again: lower the concurrency or rate, or raise the server's limits."
        )
    found += _cancellations(observed, free=free)
    late = max((run.loop_lag.p99 for run in runs if run.loop_lag is not None), default=0.0)
    if late > _LATE:
        found.append(
            f"This process was late by {late * 1000:.0f} ms (p99 of its event loop): latencies are too long by up to as"
            " much. The machine that it runs on is busy."
        )
    return found


def _cancellations(observed: Observed, *, free: bool | None) -> list[str]:
    if not observed.cancelled:
        return []
    beside = (
        f"of {observed.beside} that ran beside them {observed.beside_failed} failed"
        if observed.beside
        else "none ran beside them"
    )
    after = {True: "; the server responded afterwards", False: "; afterwards it did not respond", None: ""}[free]
    were = "was" if observed.cancelled == 1 else "were"
    return [f"{counted(observed.cancelled, 'request')} {were} cancelled on purpose: {beside}{after}."]
