"""Measures the planned runs, one after the other."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from time import perf_counter

from msgspec import Struct

from miner.cli.bench.conversation import Conversation, Script, cancellations
from miner.cli.bench.lag import loop_lag
from miner.cli.bench.load import Deadline, Perform, arrival_times, closed_loop, open_loop
from miner.cli.bench.measure import Measurement
from miner.cli.bench.notes import Observed
from miner.cli.bench.plan import PlannedRun
from miner.cli.bench.progress import NoProgress, Progress
from miner.cli.bench.prompts import Prompts, Scale
from miner.cli.bench.result import Run
from miner.cli.bench.sender import BenchRequest, Sender
from miner.cli.bench.summary import summarize

_CHECKED = 4096
"""Prompts of a run whose lengths are checked, where words are not all one token."""


class Shape(Struct, kw_only=True):
    """What the requests of all runs have in common."""

    endpoint: str
    seed: int
    scale: Scale
    counted: bool = False
    """Whether the target counts tokens, so that lengths can be checked."""
    shared_prefix: int = 0
    turns: int = 1
    tools: bool = True
    cancel: float = 0.0
    burstiness: float = 1.0
    warmup: int = 0


class Stopped(Exception):
    """The measurement was stopped; `run` is what was measured of the last one, None if nothing was."""

    def __init__(self, run: Run | None) -> None:
        super().__init__()
        self.run = run


class Runner:
    """Measures runs against one target."""

    def __init__(self, sender: Sender, shape: Shape, progress: Progress, objective: dict[str, float] | None) -> None:
        self._sender = sender
        self._shape = shape
        self._progress = progress
        self._objective = objective
        self._prompts = Prompts(shape.seed, shape.scale)
        self._prefix = Prompts(shape.seed, shape.scale).text(shape.shared_prefix) if shape.shared_prefix else ""
        self._run = itertools.count()
        self.observed = Observed()
        """What the notes are made of."""

    async def warm_up(self, planned: PlannedRun) -> list[Measurement]:
        """Send the requests that are not counted, as many at once as the run will; return what came of them."""
        count = self._shape.warmup
        if not count:
            return []
        scripts = await self._scripts(planned, count)
        left = iter(scripts)
        seen: list[Measurement] = []
        take = self._taker(lambda: next(left, None), turns=count)
        await closed_loop(take, self._performer(seen), planned.concurrency or 1, Deadline(None))
        return seen

    async def measure(self, planned: PlannedRun) -> Run:
        """Measure one run.

        Raises:
            Stopped: this task was cancelled; all that was in flight has been closed.
        """
        shape = self._shape
        number = next(self._run)
        count = None if planned.requests is None else -(-planned.requests // shape.turns)
        if count is None and planned.request_rate is not None and planned.duration is not None:
            count = max(1, round(planned.request_rate * planned.duration))
        ready = await self._scripts(planned, min(count or 0, _CHECKED))
        left = iter(ready)

        def script() -> Script | None:
            return next(left, None) or self._script(self._texts(planned), planned)

        take = self._taker(script, turns=planned.requests)
        seen: list[Measurement] = []
        perform = self._performer(seen, cancellations(shape.cancel, planned.max_tokens, shape.seed + number))
        self._progress.run_started(planned, planned.requests or 0)
        async with loop_lag() as lag:
            began = perf_counter()
            deadline = Deadline(planned.duration)
            partial = False
            try:
                if planned.concurrency is not None:
                    await closed_loop(take, perform, planned.concurrency, deadline)
                else:
                    assert planned.request_rate is not None
                    times = arrival_times(planned.request_rate, count or 0, shape.burstiness, shape.seed + number)
                    await open_loop(take, perform, times, deadline)
            except asyncio.CancelledError:
                partial = True
            ended = perf_counter()
        self.observed.add(seen, shape.endpoint, planned.prompt_tokens)
        run = summarize(planned, seen, began=began, ended=ended, objective=self._objective, lag=lag, partial=partial)
        self._progress.run_finished(run)
        if partial:
            raise Stopped(run if seen else None)
        return run

    async def _scripts(self, planned: PlannedRun, count: int) -> list[Script]:
        """Conversations that are made before the clock runs, their lengths checked where that is needed."""
        shape = self._shape
        scripts = []
        for _ in range(count):
            if shape.counted and not shape.scale.exact:
                texts = [
                    await self._prompts.exact_text(planned.prompt_tokens, self._sender.count)
                    for _ in range(shape.turns)
                ]
            else:
                texts = self._texts(planned)
            scripts.append(self._script(texts, planned))
        return scripts

    def _texts(self, planned: PlannedRun) -> list[str]:
        return [self._prompts.text(planned.prompt_tokens) for _ in range(self._shape.turns)]

    def _script(self, texts: list[str], planned: PlannedRun) -> Script:
        first = f"{self._prefix} {texts[0]}" if self._prefix else texts[0]
        return Script(texts=[first, *texts[1:]], max_tokens=planned.max_tokens)

    def _taker(self, script: Callable[[], Script | None], *, turns: int | None) -> Callable[[], Conversation | None]:
        """Hands out conversations of `turns` requests in all; None: without end."""
        shape, left = self._shape, turns

        def take() -> Conversation | None:
            nonlocal left
            if left == 0:
                return None
            made = script()
            if made is None:
                return None
            if left is not None:
                made.texts = made.texts[:left]
                left -= len(made.texts)
            return Conversation(made, shape.endpoint, tools=shape.tools, unsent=give_back)

        def give_back(count: int) -> None:
            nonlocal left
            if left is not None:
                left += count

        return take

    def _performer(self, seen: list[Measurement], cancel: Iterator[int | None] | None = None) -> Perform:
        """Sends requests and gathers what was seen of them.

        Args:
            cancel: for each request after how many chunks it is cancelled; None: they are not counted.
        """
        progress: Progress = NoProgress() if cancel is None else self._progress

        async def perform(request: BenchRequest) -> Measurement:
            measurement = Measurement(request.max_tokens, request.turn)
            request.cancel_after = None if cancel is None else next(cancel)
            progress.request_started()
            await self._sender.send(request, measurement)
            seen.append(measurement)
            progress.request_finished(measurement)
            return measurement

        return perform
