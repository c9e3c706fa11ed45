"""How many prompts one llama.cpp engine reads at a time.

It reads them in batches, filled by one slot after another: a prompt that is longer than a batch has it for itself, and
those behind it wait inside the engine, where a client that has left is noticed only once the prompt's own turn has
come. With 8 slots that is eight batches which nobody wants before the last is free. Sent here a few at a time, such
requests cost nothing when they are cancelled, and no prompt is read any later: short ones are sent together, up to what
the engine reads in two batches.
"""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType

from miner.core.wire import LLMChunk

__all__ = ["Prefill", "PrefillGate"]

_BATCHES = 2
_ALWAYS = 2
"""Prompts at a time, however long: one is in the engine when the one before it is read."""
_BYTES_PER_TOKEN = 4


class PrefillGate:
    """Lets prompts through in order of arrival, as far as an engine reads them at once. Belongs to one event loop."""

    def __init__(self, batch_size: int) -> None:
        self._most = _BATCHES * batch_size
        self._inside = 0
        self._tokens = 0
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()

    def prefill(self, body: bytes) -> Prefill:
        """The reading of this request's prompt, to be entered before it is sent."""
        return Prefill(self, len(body) // _BYTES_PER_TOKEN)

    def _admits(self, tokens: int) -> bool:
        return self._inside < _ALWAYS or self._tokens + tokens <= self._most

    def _enter(self, tokens: int) -> None:
        self._inside += 1
        self._tokens += tokens

    def _leave(self, tokens: int) -> None:
        self._inside -= 1
        self._tokens -= tokens
        while self._waiting and (self._waiting[0][0].done() or self._admits(self._waiting[0][1])):
            future, wanted = self._waiting.popleft()
            if not future.done():  # cancelled, it leaves no trace
                self._enter(wanted)
                future.set_result(None)


class Prefill:
    """One prompt: `async with` waits until it may be sent; `done` says that it is read, at the end at the latest."""

    def __init__(self, gate: PrefillGate, tokens: int) -> None:
        self._gate = gate
        self._tokens = tokens
        self._inside = False
        self.waited = 0.0
        """Seconds that it took until it could be sent."""

    async def __aenter__(self) -> Prefill:
        gate = self._gate
        if not gate._waiting and gate._admits(self._tokens):
            gate._enter(self._tokens)
        else:
            loop = asyncio.get_running_loop()
            began, future = loop.time(), loop.create_future()
            gate._waiting.append((future, self._tokens))
            try:
                await future
            except asyncio.CancelledError:
                if future.done() and not future.cancelled():  # admitted and cancelled at the same time
                    gate._leave(self._tokens)
                raise
            self.waited = loop.time() - began
        self._inside = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.done()

    def done(self) -> None:
        """It is read: the next one may be sent. Idempotent."""
        if self._inside:
            self._inside = False
            self._gate._leave(self._tokens)

    def see(self, batch: list[LLMChunk]) -> bool:
        """Whether it is read, now that this part of the reply has come."""
        progress = batch[-1].progress
        if progress is not None and progress.done < progress.total:
            return False
        self.done()
        return True
