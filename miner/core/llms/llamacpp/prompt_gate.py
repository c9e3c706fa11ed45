"""How many prompts one llama.cpp engine processes at a time.

It processes them in batches (`--batch-size`), filled by one slot after another: a prompt that is longer than a batch
has it for itself, and those behind it wait inside the engine, where a disconnected client is noticed only once its
slot's own batch comes. With 8 slots that is eight batches computed for disconnected clients before the last slot is
free. Sent a few at a time, requests that wait cost nothing when they are cancelled, and no prompt is processed later:
short ones are sent together, up to what the engine processes in two batches.
"""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType

from miner.core.wire import LLMChunk

_BATCHES = 2
_MIN_PROMPTS = 2
"""Minimum of concurrent prompts, however long: the next one is in the engine when the first is done."""
_BYTES_PER_TOKEN = 4


class PromptGate:
    """Lets prompts through first come, first served, as far as an engine processes them at once. For one event loop.

    Args:
        batch_size: tokens of one batch of the engine.
    """

    def __init__(self, batch_size: int) -> None:
        self._max_tokens = _BATCHES * batch_size
        self._prompts = 0
        self._tokens = 0
        self._waiters: deque[tuple[asyncio.Future[None], int]] = deque()

    def permit(self, prompt: bytes | int) -> PromptPermit:
        """The permit for a prompt, to be entered before it is sent.

        Args:
            prompt: the request body with it, or how many of its tokens are new to the engine.
        """
        return PromptPermit(self, prompt if isinstance(prompt, int) else len(prompt) // _BYTES_PER_TOKEN)

    def _admits(self, tokens: int) -> bool:
        return self._prompts < _MIN_PROMPTS or self._tokens + tokens <= self._max_tokens

    def _enter(self, tokens: int) -> None:
        self._prompts += 1
        self._tokens += tokens

    def _leave(self, tokens: int) -> None:
        self._prompts -= 1
        self._tokens -= tokens
        while self._waiters and (self._waiters[0][0].done() or self._admits(self._waiters[0][1])):
            future, wanted = self._waiters.popleft()
            if not future.done():  # else it was cancelled
                self._enter(wanted)
                future.set_result(None)


class PromptPermit:
    """For one prompt: `async with` waits until it may be sent, and releases at the end at the latest."""

    def __init__(self, gate: PromptGate, tokens: int) -> None:
        self._gate = gate
        self._tokens = tokens
        self._held = False
        self.waited = 0.0
        """Seconds until it could be sent."""

    async def __aenter__(self) -> PromptPermit:
        gate = self._gate
        if not gate._waiters and gate._admits(self._tokens):
            gate._enter(self._tokens)
        else:
            loop = asyncio.get_running_loop()
            began, future = loop.time(), loop.create_future()
            gate._waiters.append((future, self._tokens))
            try:
                await future
            except asyncio.CancelledError:
                if future.done() and not future.cancelled():  # admitted and cancelled at the same time
                    gate._leave(self._tokens)
                raise
            self.waited = loop.time() - began
        self._held = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Let the next prompt through. Idempotent."""
        if self._held:
            self._held = False
            self._gate._leave(self._tokens)

    def update(self, batch: list[LLMChunk]) -> bool:
        """Release the permit if this part of the reply shows that the prompt is processed; return whether it does."""
        progress = batch[-1].progress
        if progress is not None and progress.done < progress.total:
            return False
        self.release()
        return True
