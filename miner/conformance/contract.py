"""The fixture class of the suite: one service on one event loop with a timeout on every step, and helpers for tests of
unsupported capabilities (they must be refused) and for tests with nothing to check (reported as "not checked").
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

import pytest

from miner.core.llms.contract.join import join
from miner.core.llms.LLMService import LLMService
from miner.core.wire import EmbeddingResponse, FinishReason, LLMChunk, LLMResponse, ModelInfo, TokenUsage
from miner.errors import UnsupportedFeatureError

__all__ = ["LONG", "TOO_SHORT", "Contract", "LongCall", "counted", "finished", "not_checked", "supported_or_refused"]

LONG = "Tell me a very long story about a lighthouse and the sea."
TOO_SHORT = "responses finish too quickly to be cancelled"
_FINISH_REASONS = get_args(FinishReason)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LongCall:
    """A call of about a second, or the longest that the backend makes, and its duration in seconds."""

    max_tokens: int
    seconds: float


class Contract:
    """One backend under test.

    Attributes:
        service: the backend's service, opened once for all tests.
        model: the model to use; None for the default.
        patience: timeout of one step in seconds; loading a model is included.
    """

    def __init__(self, backend: type[LLMService], config: Any, model: str | None, patience: float = 120.0) -> None:
        self.patience = patience
        self._runner = asyncio.Runner()
        self._backend = backend
        self._config = config
        self.model = model
        self.service = self.new_service()
        self._long_call: LongCall | None = None

    def run(self, work: Awaitable[T]) -> T:
        """Run on the service's event loop. Raises TimeoutError after `patience` seconds."""

        async def bounded() -> T:
            async with asyncio.timeout(self.patience):
                return await work

        return self._runner.run(bounded())

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The service's event loop."""
        return self._runner.get_loop()

    def capabilities(self) -> frozenset[str]:
        """The capabilities that the backend declares for this model."""
        for info in self.listed():
            if info.capabilities is not None:
                return info.capabilities & self.service.capabilities
        return self.service.capabilities

    def models(self) -> list[ModelInfo]:
        """The models that the backend lists."""
        return self.run(self.service.list_models())

    def listed(self) -> list[ModelInfo]:
        """The entry of the model under test; all entries if that is the default model."""
        return [info for info in self.models() if self.model in (None, info.id, *info.aliases)]

    def chat(self, prompt: str, **options: Any) -> LLMResponse:
        """The non-streaming response to one user message; greedy and 16 tokens unless `options` differ."""
        return finished(self.run(self.chat_call(prompt, **options)))

    def chat_call(self, prompt: str, **options: Any) -> Coroutine[Any, Any, LLMResponse]:
        """The same as a coroutine."""
        return self.service.chat_completion([{"role": "user", "content": prompt}], **self._with_defaults(options))

    def chat_messages(self, messages: list[dict[str, Any]], **options: Any) -> LLMResponse:
        """The response to a conversation."""
        return finished(self.run(self.service.chat_completion(messages, **self._with_defaults(options))))

    def stream(self, prompt: str, **options: Any) -> AsyncIterator[LLMChunk]:
        """The same response as a stream."""
        messages = [{"role": "user", "content": prompt}]
        return self.service.stream(messages=messages, **self._with_defaults(options))

    def stream_chunks(self, prompt: str, **options: Any) -> list[LLMChunk]:
        """All chunks of a stream."""

        async def read() -> list[LLMChunk]:
            return [chunk async for chunk in self.stream(prompt, **options)]

        return self.run(read())

    def stream_joined(self, prompt: str, **options: Any) -> LLMResponse:
        """The response that the chunks of a stream join to."""
        return finished(join([self.stream_chunks(prompt, **options)]))

    def _with_defaults(self, options: dict[str, Any]) -> dict[str, Any]:
        return {"model": self.model, "max_tokens": 16, "temperature": 0, "top_p": 1, **options}

    def new_service(self) -> LLMService:
        """Another service of the same backend, for tests that close it. Model names are exact, as in the gateway."""
        service = self._backend(self._config)
        service.any_model_name = False
        return service

    def long_call(self) -> LongCall:
        """A long call, measured once."""
        if self._long_call is None:
            self._long_call = self._measured_long_call()
        return self._long_call

    def _measured_long_call(self) -> LongCall:
        lengths = [info.context_length for info in self.listed()]
        limit = min(2048, (lengths[0] if lengths and lengths[0] else 4096) // 2)
        self.chat(LONG, max_tokens=1)
        max_tokens, before = 16, 0.0
        while True:
            response, seconds = self._timed(max_tokens)
            ended = response.finish_reason != "length" and seconds < 1.5 * before  # it gets no longer
            if seconds >= 1 or ended or 2 * max_tokens > limit:
                return LongCall(max_tokens, min(seconds, self._timed(max_tokens)[1]))  # it may have been busy
            max_tokens, before = 2 * max_tokens, seconds

    def _timed(self, max_tokens: int) -> tuple[LLMResponse, float]:
        began = time.monotonic()
        response = self.chat(LONG, max_tokens=max_tokens)
        return response, time.monotonic() - began

    def tasks(self) -> int:
        """Number of unfinished tasks on the event loop."""
        return sum(not task.done() for task in asyncio.all_tasks(self.loop))

    def close(self) -> None:
        """Close the service and its loop."""
        try:
            self.run(self.service.aclose())
        finally:
            self._runner.close()


def finished(response: LLMResponse) -> LLMResponse:
    """Return the response; its finish reason must be one of `FinishReason`."""
    assert response.finish_reason in _FINISH_REASONS, f"{response.finish_reason!r} is not a FinishReason"
    return response


def supported_or_refused(
    contract: Contract,
    request: pytest.FixtureRequest,
    capability: str,
    send: Callable[[], Any],
    param: str | None = None,
) -> bool:
    """Whether the backend declares the capability. If not, `send` must raise an error that names the parameter."""
    if capability in contract.capabilities():
        return True
    with pytest.raises(UnsupportedFeatureError) as caught:
        send()
    if param is not None:
        assert caught.value.param == param, f"the error must name {param!r}, it names {caught.value.param!r}"
    request.node.user_properties.append(("refused", True))
    return False


def not_checked(request: pytest.FixtureRequest, reason: str) -> None:
    """Report that the test, or a part of it, had nothing to check; it is not counted as passed."""
    if ("not checked", reason) not in request.node.user_properties:
        request.node.user_properties.append(("not checked", reason))


def counted(request: pytest.FixtureRequest, response: LLMResponse | EmbeddingResponse) -> TokenUsage | None:
    """Return the checked usage of a response; None, reported as not checked, if the backend counts no tokens."""
    usage = response.usage
    if usage is None:
        not_checked(request, "no usage is reported")
        return None
    assert usage.prompt_tokens > 0, "usage has no prompt tokens; it must be None if nothing was counted"
    if isinstance(response, LLMResponse):
        if response.content:
            assert usage.completion_tokens > 0, "usage has no completion tokens for a response with text"
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    return usage
