"""FallbackService: while the chosen backend is unavailable, the next one answers; the response says who did.

What only some backends can (load, unload, rerank, pull) is asked of the first that can and is available.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from msgspec.structs import replace

from miner.core._typing import override
from miner.core.http.crash_budget import budget_scope, current_budget
from miner.core.llms.contract.driver import respond, stream_batches
from miner.core.llms.contract.stream import Batches, LLMStream
from miner.core.llms.LLMService import LLMService
from miner.core.llms.registry import load_backend
from miner.core.wire import ChatRequest, EmbeddingResponse, Health, LLMResponse, ModelInfo, RerankResponse, Resolution
from miner.errors import (
    BackendError,
    BackendProtocolError,
    ConfigError,
    EngineCrashedError,
    MinerError,
    ModelNotFoundError,
    OutputValidationError,
    RequestError,
    ServiceClosedError,
    StreamInterruptedError,
    UnsupportedFeatureError,
)

__all__ = ["FallbackService"]

logger = logging.getLogger("miner.fallback")

T = TypeVar("T")
M = TypeVar("M", EmbeddingResponse, RerankResponse)


class FallbackService(LLMService):
    """Several backends in order, behind one interface.

    A backend that fails with a BackendError is left alone for MINER_FALLBACK_COOLDOWN seconds, then tried first again.
    A wrong request is not passed on: it is wrong everywhere. A stream falls over only before its first chunk. On a
    fallback, a model that this backend does not know is answered by its own default. Vectors and scores come from
    another backend only where it has the very same model.
    """

    name = "fallback"

    def __init__(self, config: Any, first: LLMService, others: Sequence[str]) -> None:
        super().__init__(config)
        self._services: list[LLMService] = [first]
        self._others = list(others)
        self._resting: dict[str, float] = {}
        self._answered: dict[str, str] = {}
        """The model that made vectors, or scores, where nobody named one."""
        self.models = first.models

    @property
    def names(self) -> list[str]:
        """The backends, in the order in which they are asked."""
        return [*(service.name for service in self._services), *self._others]

    def _all(self) -> list[LLMService]:
        """The services in order; those behind the first are made when they are needed first."""
        while self._others:
            try:
                backend = load_backend(self._others.pop(0), self.config)
            except ConfigError as error:
                logger.warning("A fallback is left out: %s", error)
                continue
            if backend.cls is None:
                logger.warning("Fallback %r is left out: %s", backend.name, backend.reason)
            else:
                self._services.append(backend.service(self.config))
        for service in self._services:
            service.any_model_name = self.any_model_name
        return self._services

    def _awake(self) -> list[LLMService]:
        """The services in the order in which they are asked: those that rest come last, where nobody else answers."""
        return sorted(self._all(), key=self._rests)

    def _rests(self, service: LLMService) -> bool:
        return self._resting.get(service.name, 0.0) > time.monotonic()

    def _rest(self, service: LLMService, error: BackendError) -> None:
        pause = self._settings.fallback_cooldown
        self._resting[service.name] = time.monotonic() + pause
        logger.warning("%s Left alone for %g s; the next backend answers.", error.message, pause)

    async def _first_able(self, call: Callable[[LLMService, bool], Awaitable[T]]) -> T:
        """The answer of the first backend that gives one."""
        services = self._awake()
        with self._in_flight.call(), budget_scope(current_budget()):  # what one sent again, no other does
            for service in services:
                try:
                    return await call(service, service is self._services[0])
                except BackendError as error:
                    if service is services[-1] or not _is_down(error):
                        raise
                    self._rest(service, error)
                finally:
                    self.retries = sum(each.retries for each in self._services)
        raise AssertionError("there is always a first backend")

    async def _prepared(self, service: LLMService, request: ChatRequest, *, first: bool) -> ChatRequest:
        """The request as this backend takes it."""
        resolution = Resolution()
        if not first and request.model is not None:
            try:
                resolution.model = await service.resolve_model(request.model)
            except ModelNotFoundError:
                request = replace(request, model=await service._sole_model())
        return replace(request, resolution=resolution)

    async def _model_for(self, service: LLMService, model: str | None, *, first: bool) -> str | None:
        """The model that is meant, on this backend."""
        if first or model is None:
            return model
        try:
            await service._get_model(model)
        except ModelNotFoundError:
            return await service._sole_model()
        return model

    async def _first_that_can(
        self, call: Callable[[LLMService, bool], Awaitable[T]], *, unknown_here: bool = False
    ) -> T:
        """The answer of the first backend that can and is available.

        Args:
            unknown_here: a model that one backend does not know may be another one's.
        """
        services = self._awake()
        failed: BackendError | None = None
        refused: RequestError | None = None
        with self._in_flight.call(), budget_scope(current_budget()):  # what one sent again, no other does
            for service in services:
                try:
                    return await call(service, service is self._services[0])
                except (UnsupportedFeatureError, ModelNotFoundError) as error:
                    if isinstance(error, ModelNotFoundError) and not unknown_here:
                        raise
                    refused = refused or error
                except BackendError as error:
                    if not _is_down(error):
                        raise
                    failed = error
                    if service is not services[-1]:
                        self._rest(service, error)
        error_of_all = failed or refused  # one that is down might have been able to
        assert error_of_all is not None
        raise error_of_all

    @property
    @override
    def capabilities(self) -> frozenset[str]:
        return self._services[0].capabilities

    @property
    @override
    def concurrency(self) -> int:
        """That of the backend that a request would go to now: the first one's, or while that rests, the next one's.
        What has begun with another number is not called back: it waits in that backend's own queue.
        """
        return self.next_asked.concurrency

    @property
    @override
    def queues_requests(self) -> bool:
        return self.next_asked.queues_requests

    @property
    def next_asked(self) -> LLMService:
        """The backend that a request would go to now."""
        first = self._services[0]
        return self._awake()[0] if self._rests(first) else first  # the others are not made before they are needed

    @override
    async def generate(
        self, prompt: str, model: str | None = None, max_tokens: int | None = None, temperature: float | None = None,
        top_p: float | None = None, **options: Any,
    ) -> str:  # fmt: skip
        request = self._request(
            options, prompt=prompt, model=model, max_tokens=max_tokens, temperature=temperature, top_p=top_p
        )
        return (await self._respond(request)).content

    @override
    async def chat_completion(
        self, messages: Sequence[Any], model: str | None = None, max_tokens: int | None = None,
        temperature: float | None = None, top_p: float | None = None, tools: Sequence[Any] | None = None,
        tool_choice: Any = None, **options: Any,
    ) -> LLMResponse:  # fmt: skip
        return await self._respond(
            self._request(
                options, messages=messages, model=model, max_tokens=max_tokens, temperature=temperature, top_p=top_p,
                tools=tools, tool_choice=tool_choice,
            )
        )  # fmt: skip

    @override
    async def _chat(self, request: ChatRequest) -> LLMResponse:
        # Also what tells this from the generate-only backend, whose `generate` is called with what it declares only.
        return await self._respond(request)

    @override
    async def _stream(self, request: ChatRequest) -> Batches:
        async with aclosing(self._fallen_over(request, LLMResponse())) as batches:
            async for batch in batches:
                yield batch

    async def _respond(self, request: ChatRequest) -> LLMResponse:
        async def call(service: LLMService, first: bool) -> LLMResponse:
            return await respond(service, await self._prepared(service, request, first=first))

        return await self._first_able(call)

    @override
    def stream(self, prompt: str | None = None, **arguments: Any) -> LLMStream:
        names = ("messages", "model", "max_tokens", "temperature", "top_p", "tools", "tool_choice")
        given = {name: arguments.pop(name) for name in names if name in arguments}
        request = self._request(arguments, prompt=prompt, **given)
        response = LLMResponse()
        return LLMStream(lambda: self._fallen_over(request, response), response, self._in_flight)

    async def _fallen_over(self, request: ChatRequest, response: LLMResponse) -> Batches:
        services = self._awake()
        count = current_budget()
        for service in services:
            delivered = False
            try:
                prepared = await self._prepared(service, request, first=service is self._services[0])
                async with aclosing(stream_batches(service, prepared, response)) as batches:
                    with budget_scope(count):  # not over a yield: who reads has a context of its own
                        first = await anext(batches, None)
                    if first is not None:
                        delivered = True
                        yield first
                    async for batch in batches:
                        yield batch
                return
            except BackendError as error:
                if delivered or service is services[-1] or not _is_down(error):
                    raise
                self._rest(service, error)
            finally:
                self.retries = sum(each.retries for each in self._services)

    async def _same_model(
        self, verb: str, model: str | None, call: Callable[[LLMService, str | None], Awaitable[M]]
    ) -> M:
        """The response of the first backend that can, or, while it is down, of one that has the very same model.

        Vectors and scores of two models cannot be compared.
        """
        name = model or self._settings.default_model or self._answered.get(verb)
        failed: BackendError | None = None
        refused: UnsupportedFeatureError | None = None
        with self._in_flight.call(), budget_scope(current_budget()):  # what one sent again, no other does
            for service in self._all() if name is None else self._awake():
                other = service is not self._services[0] and (failed is not None or name is not None)
                try:
                    if other and (name is None or not await _has(service, name)):
                        continue
                    response = await call(service, name if other else model)
                except UnsupportedFeatureError as error:
                    refused = refused or error
                except BackendError as error:
                    if not _is_down(error):
                        raise
                    failed = failed or error
                    self._rest(service, error)
                else:
                    if model is None and response.model is not None:
                        self._answered[verb] = response.model
                    return response
                finally:
                    self.retries = sum(each.retries for each in self._services)
        error_of_all = failed or refused  # one that is down might have been able to
        assert error_of_all is not None
        raise error_of_all

    @override
    async def embed(self, texts: str | Sequence[str], model: str | None = None) -> EmbeddingResponse:
        return await self._same_model("embed", model, lambda service, name: service.embed(texts, name))

    @override
    async def rerank(
        self, query: str, documents: Sequence[str], model: str | None = None, top_n: int | None = None
    ) -> RerankResponse:
        return await self._same_model(
            "rerank", model, lambda service, name: service.rerank(query, documents, name, top_n)
        )

    @override
    async def load_model(self, model: str | None = None, *, keep_alive: float | str | None = None) -> ModelInfo:
        async def call(service: LLMService, first: bool) -> ModelInfo:
            name = await self._model_for(service, model, first=first)
            return await service.load_model(name, keep_alive=keep_alive)

        return await self._first_that_can(call)

    @override
    async def unload_model(self, model: str) -> bool:
        return await self._first_that_can(lambda service, _: service.unload_model(model), unknown_here=True)

    @override
    def reset_model(self, model: str) -> None:
        refused: RequestError | None = None
        for service in self._all():
            try:
                service.reset_model(model)
                return
            except (UnsupportedFeatureError, ModelNotFoundError) as error:
                refused = refused or error
        assert refused is not None
        raise refused

    @override
    def pull_model(self, model: str, *, insecure: bool = False) -> AsyncGenerator[dict[str, Any], None]:
        for service in self._all():
            if type(service).pull_model is not LLMService.pull_model:
                return service.pull_model(model, insecure=insecure)
        return super().pull_model(model, insecure=insecure)

    @override
    async def count_tokens(self, prompt: str | None = None, **arguments: Any) -> int:
        return await self._first_able(lambda service, _: service.count_tokens(prompt, **arguments))

    @override
    async def list_models(self) -> list[ModelInfo]:
        return await self._first_able(lambda service, _: service.list_models())

    @override
    async def _get_model(self, model_name: str) -> Any:
        return await self._first_able(lambda service, _: service._get_model(model_name))

    @override
    async def _health(self) -> Health:
        """Ready when any backend is; the reason tells of those that are not."""
        services = self._all()
        told = await asyncio.gather(*(service.health() for service in services))
        checked = [(service.name, health) for service, health in zip(services, told, strict=True)]
        reasons = [f"{name}: {health.reason}" for name, health in checked if not health]
        ready = [health for _, health in checked if health]
        best = ready[0] if ready else checked[0][1]
        return Health(
            state=best.state,
            reason="; ".join(reasons) or None,
            hint=None if ready else best.hint,
            models=best.models,
            engines=[engine for _, health in checked for engine in health.engines],
        )

    @override
    async def aclose(self) -> None:
        errors: list[MinerError] = []
        for service in self._services:
            try:
                await service.aclose()
            except MinerError as error:
                errors.append(error)
        if errors:
            raise errors[0]


def _is_down(error: BackendError) -> bool:
    """Whether another backend may do better: not where the engine answered and the answer was bad or broke off, nor
    where the service was closed.
    """
    if isinstance(error, EngineCrashedError) and isinstance(error.__cause__, StreamInterruptedError):
        return False
    return not isinstance(
        error, (BackendProtocolError, OutputValidationError, ServiceClosedError, StreamInterruptedError)
    )


async def _has(service: LLMService, name: str) -> bool:
    """Whether a backend has a model of exactly this name. One that takes any name says nothing with that."""
    if type(service)._get_model is LLMService._get_model:
        return False
    try:
        info = await service._get_model(name)
    except RequestError:
        return False
    return isinstance(info, ModelInfo) and (name == info.id or name in info.aliases)
