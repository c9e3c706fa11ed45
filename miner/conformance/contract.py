"""What the tests of the contract work with: one service on one event loop, and bounds on every wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

from miner.core.llms.contract.join import join
from miner.core.llms.LLMService import LLMService
from miner.core.wire import FinishReason, LLMChunk, LLMResponse, ModelInfo

__all__ = ["LONG", "Contract", "LongCall"]

LONG = "Tell me a very long story about a lighthouse and the sea."
_FINISH_REASONS = get_args(FinishReason)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LongCall:
    """A call that takes a second, or as long as the backend makes one last, and how long that is in seconds."""

    max_tokens: int
    seconds: float


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
        self.service = self.fresh()
        self._long_call: LongCall | None = None

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
        return _finished(self.run(self.asking(prompt, **options)))

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
        return _finished(join([chunks]))

    def _with_defaults(self, options: dict[str, Any]) -> dict[str, Any]:
        return {"model": self.model, "max_tokens": 16, "temperature": 0, "top_p": 1, **options}

    def fresh(self) -> LLMService:
        """Another service of the same backend, for tests that close it. Names are exact, as a gateway's are."""
        service = self._backend(self._config)
        service.any_model_name = False
        return service

    def long_call(self) -> LongCall:
        """A call that lasts; measured once."""
        if self._long_call is None:
            self._long_call = self._measured_long_call()
        return self._long_call

    def _measured_long_call(self) -> LongCall:
        lengths = [info.context_length for info in self.models() if self.model in (None, info.id, *info.aliases)]
        limit = min(2048, (lengths[0] if lengths and lengths[0] else 4096) // 2)
        self.ask(LONG, max_tokens=1)
        max_tokens, before = 16, 0.0
        while True:
            response, seconds = self._timed(max_tokens)
            ended = response.finish_reason != "length" and seconds < 1.5 * before  # longer it does not get
            if seconds >= 1 or ended or 2 * max_tokens > limit:
                return LongCall(max_tokens, min(seconds, self._timed(max_tokens)[1]))  # a busy machine shows once
            max_tokens, before = 2 * max_tokens, seconds

    def _timed(self, max_tokens: int) -> tuple[LLMResponse, float]:
        began = time.monotonic()
        response = self.ask(LONG, max_tokens=max_tokens)
        return response, time.monotonic() - began

    def tasks(self) -> int:
        """Tasks that are alive on the loop."""
        return sum(not task.done() for task in asyncio.all_tasks(self.loop))

    def close(self) -> None:
        """Close the service and its loop."""
        try:
            self.run(self.service.aclose())
        finally:
            self._runner.close()


def _finished(response: LLMResponse) -> LLMResponse:
    """The same; its finish reason must be one of the contract's words."""
    assert response.finish_reason in _FINISH_REASONS, f"{response.finish_reason!r} is no finish reason"
    return response
