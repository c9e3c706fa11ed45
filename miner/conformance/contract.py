"""What the tests of the contract work with: one service on one event loop, and bounds on every wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Coroutine
from typing import Any, TypeVar

from miner.core.llms.join import join
from miner.core.llms.LLMService import LLMService
from miner.core.wire import LLMChunk, LLMResponse, ModelInfo, TokenUsage

__all__ = ["Contract", "usage_of"]

T = TypeVar("T")


def usage_of(response: LLMResponse) -> TokenUsage:
    """What a response says of its tokens; zeros where its backend counts none."""
    return response.usage if response.usage is not None else TokenUsage()


class Contract:
    """One backend under test.

    Attributes:
        service: the backend's service, opened once for all tests.
        model: the model that is asked for; None for the default.
        patience: seconds that any one step may take: generous, since a model may have to be loaded.
    """

    def __init__(self, backend: type[LLMService], config: Any, model: str | None, patience: float = 120.0) -> None:
        self.patience = patience
        self._runner = asyncio.Runner()
        self._backend = backend
        self._config = config
        self.model = model
        self.service = backend(config)

    def run(self, work: Awaitable[T]) -> T:
        """Run to the end on the service's loop; TimeoutError when the patience is over."""

        async def bounded() -> T:
            async with asyncio.timeout(self.patience):
                return await work

        return self._runner.run(bounded())

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that the service lives on."""
        return self._runner.get_loop()

    def able(self) -> frozenset[str]:
        """What the backend declares for this model."""
        for info in self.models():
            if self.model in (None, info.id, *info.aliases) and info.capabilities is not None:
                return info.capabilities & self.service.capabilities
        return self.service.capabilities

    def models(self) -> list[ModelInfo]:
        """What the backend lists."""
        return self.run(self.service.list_models())

    def ask(self, prompt: str, **options: Any) -> LLMResponse:
        """A whole reply to one user turn; greedy and short unless the test says otherwise."""
        return self.run(self.asking(prompt, **options))

    def asking(self, prompt: str, **options: Any) -> Coroutine[Any, Any, LLMResponse]:
        """The same, not yet run."""
        return self.service.chat_completion([{"role": "user", "content": prompt}], **self._with_defaults(options))

    def stream(self, prompt: str, **options: Any) -> AsyncIterator[LLMChunk]:
        """The same reply as it comes."""
        messages = [{"role": "user", "content": prompt}]
        return self.service.stream(messages=messages, **self._with_defaults(options))

    def streamed(self, prompt: str, **options: Any) -> list[LLMChunk]:
        """All chunks of a reply."""

        async def read() -> list[LLMChunk]:
            return [chunk async for chunk in self.stream(prompt, **options)]

        return self.run(read())

    @staticmethod
    def join(chunks: list[LLMChunk]) -> LLMResponse:
        """The reply that these chunks are pieces of."""
        return join([chunks])

    def _with_defaults(self, options: dict[str, Any]) -> dict[str, Any]:
        return {"model": self.model, "max_tokens": 16, "temperature": 0, "top_p": 1, **options}

    def fresh(self) -> LLMService:
        """Another service of the same backend, for tests that close it."""
        return self._backend(self._config)

    def tasks(self) -> int:
        """Tasks that are alive on the loop."""
        return sum(not task.done() for task in asyncio.all_tasks(self.loop))

    def close(self) -> None:
        """Close the service and its loop."""
        try:
            self.run(self.service.aclose())
        finally:
            self._runner.close()
