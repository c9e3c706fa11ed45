"""One response as it arrives; what had come is kept when it is stopped."""

from __future__ import annotations

import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from miner.cli.chat.view import View
from miner.cli.output.terminal import describe_progress
from miner.core.llms.contract.join import has_tokens, join
from miner.core.wire import LLMChunk, LLMResponse

if TYPE_CHECKING:
    from miner.core.llms.LLMService import LLMService

_EXTRAS = ("progress", "continuous_usage")
"""What only some of the backends that may serve a request know, and no response depends on."""


class Reply:
    """The response to one request."""

    def __init__(self, service: LLMService, arguments: dict[str, Any]) -> None:
        extras = [name for name in _EXTRAS if name in service.capabilities]
        if extras:
            arguments = {"unsupported": extras, **arguments, **dict.fromkeys(extras, True)}
        self._service = service
        self._arguments = arguments
        self._received: list[list[LLMChunk]] = []
        self._first: float | None = None

    @property
    def begun(self) -> bool:
        """Whether any text has come."""
        return any(map(has_tokens, self._received))

    async def receive(self, view: View) -> LLMResponse:
        """Show the response as it comes and return it. Cancelling this stops the engine.

        Raises:
            MinerError: the request was refused, or the engine failed.
        """
        stream = self._service.stream(**self._arguments)
        view.status(f"waiting for {self._service.name}")
        async with aclosing(stream.batches()) as batches:
            async for batch in batches:
                self._received.append(batch)
                self._show(batch, view)
        return join(self._received, stream.response)

    def partial(self) -> LLMResponse:
        """What had come."""
        return join(self._received)

    def _show(self, batch: list[LLMChunk], view: View) -> None:
        for chunk in batch:
            if chunk.reasoning:
                view.reasoning(chunk.reasoning)
            if chunk.content:
                view.content(chunk.content)
        last = batch[-1]
        if last.progress is not None:
            view.status(describe_progress(last.progress))
        elif has_tokens(batch):
            now = time.monotonic()
            if self._first is None:
                self._first = now
                view.status("responding")
            if last.tool_calls:
                view.status("calling a tool")
            usage = last.usage_so_far
            if usage is not None and usage.completion_tokens > 1 and now - self._first > 0.5:
                speed = (usage.completion_tokens - 1) / (now - self._first)
                view.status(f"{usage.completion_tokens:,} tokens · {speed:.0f} tokens/s")
