"""FallbackService: while one backend is unavailable, the next one serves the request; the response names it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar

from msgspec.structs import replace

from miner.core._typing import override
from miner.core.engine.events import EngineEvents
from miner.core.engine.logtail import EngineLog
from miner.core.http.crash_budget import budget_scope, current_budget
from miner.core.llms.contract.backend import Backend
from miner.core.llms.contract.deadline import Deadline
from miner.core.llms.contract.driver import run, run_stream
from miner.core.llms.contract.failover import Cooldowns, is_unavailable, worst
from miner.core.llms.contract.server_load import ServerLoad
from miner.core.llms.contract.stream import Batches
from miner.core.llms.contract.vectors import Texts
from miner.core.llms.LLMService import LLMService
from miner.core.model_card import ModelCard, ModelRecipe, RunningModel
from miner.core.wire import (
    ChatRequest,
    EmbeddingResponse,
    Health,
    LLMResponse,
    ModelInfo,
    RerankResponse,
    Resolution,
    Token,
)
from miner.errors import BackendError, ModelNotFoundError, RequestError, UnsupportedFeatureError

__all__ = ["FallbackService"]

T = TypeVar("T")
_NOT_HERE = (UnsupportedFeatureError, ModelNotFoundError)
M = TypeVar("M", EmbeddingResponse, RerankResponse)


class FallbackService(LLMService):
    """Several backends in order of preference, behind one interface.

    After a BackendError a backend is in cooldown for MINER_FALLBACK_COOLDOWN seconds: others are tried before it. A
    RequestError is not passed on. A stream falls over only before its first chunk. A fallback without the requested
    model uses its own default. Embeddings and scores come from another backend only if it has the very same model.
    Verbs that only some backends support (load, unload, rerank, pull) go to the first available one that does.

    Args:
        first: the preferred backend.
        others: names of the fallbacks.
        make: the service of a name, created when it is first needed; None if it cannot be used.
    """

    name = "fallback"

    def __init__(
        self, config: Any, first: LLMService, others: Sequence[str], make: Callable[[str], LLMService | None]
    ) -> None:
        super().__init__(config)
        self._services: list[LLMService] = [first]
        self._others = list(others)
        self._make = make
        self._cooldowns = Cooldowns()
        self._default_models: dict[str, str] = {}
        """Verb -> the model that served embeddings or scores without a model's name."""
        self.models = first.models

    @property
    @override
    def backend_names(self) -> list[str]:
        return [*(service.name for service in self._services), *self._others]

    def _all(self) -> list[LLMService]:
        """The services in order of preference; fallbacks are created when first needed."""
        while self._others:
            service = self._make(self._others.pop(0))
            if service is not None:
                self._services.append(service)
        for service in self._services:
            service.any_model_name = self.any_model_name
        return self._services

    def _ordered(self) -> list[LLMService]:
        """The services in the order in which they are tried: those in cooldown last."""
        return sorted(self._all(), key=lambda each: each.name in self._cooldowns)

    def _cool_down(self, service: LLMService, error: BackendError) -> None:
        self._cooldowns.start(service.name, error, self._settings.fallback_cooldown)

    @property
    @override
    def capabilities(self) -> frozenset[str]:
        return self._services[0].capabilities

    @property
    @override
    def concurrency(self) -> int:
        """Concurrency of `current`. Requests beyond it (after a change) wait in the backend's own queue."""
        return self.current.concurrency

    @property
    @override
    def known_concurrency(self) -> int | None:
        return self.current.known_concurrency

    @property
    @override
    def engine_fields(self) -> frozenset[str]:
        return self.current.engine_fields

    @property
    @override
    def queues_requests(self) -> bool:
        return self.current.queues_requests

    @property
    def current(self) -> LLMService:
        """The backend that a request would go to now."""
        first = self._services[0]
        return self._ordered()[0] if first.name in self._cooldowns else first  # fallbacks are not created before need

    # Which backend serves a call

    @asynccontextmanager
    async def _call(self) -> AsyncIterator[None]:
        """One call of any verb: closing the service ends it, and all backends share its crash budget."""
        with self._in_flight.call(), budget_scope(current_budget()):
            try:
                yield
            finally:
                self.retries = sum(service.retries for service in self._services)

    async def _first(self, call: Callable[[LLMService], Awaitable[T]], skip: tuple[type[RequestError], ...] = ()) -> T:
        """The result of the first backend that is available.

        Args:
            skip: refusals after which the next backend is tried.
        """
        services = self._ordered()
        failed: BackendError | None = None
        refused: RequestError | None = None
        async with self._call():
            for service in services:
                try:
                    return await call(service)
                except skip as error:
                    refused = refused or error
                except BackendError as error:
                    if not is_unavailable(error):
                        raise
                    failed = error
                    if service is not services[-1]:
                        self._cool_down(service, error)
        raise worst(failed, refused)

    async def _with_same_model(
        self, verb: str, model: str | None, call: Callable[[LLMService, str | None], Awaitable[M]]
    ) -> M:
        """The response of the first backend that supports the call, or, while it is unavailable, of one that has the
        very same model: vectors and scores of two models cannot be compared.
        """
        name = model or self._settings.default_model or self._default_models.get(verb)
        failed: BackendError | None = None
        refused: UnsupportedFeatureError | None = None
        async with self._call():
            for service in self._all() if name is None else self._ordered():
                other = service is not self._services[0] and (failed is not None or name is not None)
                try:
                    if other and (name is None or not await _has_model(service, name)):
                        continue
                    response = await call(service, name if other else model)
                except UnsupportedFeatureError as error:
                    refused = refused or error
                except BackendError as error:
                    if not is_unavailable(error):
                        raise
                    failed = failed or error
                    self._cool_down(service, error)
                else:
                    if model is None and response.model is not None:
                        self._default_models[verb] = response.model
                    return response
        raise worst(failed, refused)

    # Requests

    async def _model_on(self, service: LLMService, name: str | None) -> tuple[str | None, ModelInfo | None]:
        """The name to use on one of the backends, and its model if that was looked up."""
        if service is self._services[0] or name is None:
            return name, None
        try:
            return name, await service.resolve_model(name)
        except ModelNotFoundError:
            return await service._sole_model(), None

    async def _request_for(self, service: LLMService, request: ChatRequest) -> ChatRequest:
        """The request for one of the backends, with a resolution of its own."""
        name, info = await self._model_on(service, request.model)
        return replace(request, model=name, resolution=Resolution(model=info))

    @override
    async def _run_request(self, request: ChatRequest) -> LLMResponse:
        began = asyncio.get_running_loop().time()

        async def call(service: LLMService) -> LLMResponse:
            deadline = Deadline(service.name, request.timeout, began)
            return await run(service, await self._request_for(service, request), deadline)

        return await self._first(call)

    @override
    async def _stream_request(self, request: ChatRequest, response: LLMResponse) -> Batches:
        services = self._ordered()
        budget, began = current_budget(), asyncio.get_running_loop().time()
        for service in services:
            delivered = False
            try:
                own = await self._request_for(service, request)
                deadline = Deadline(service.name, request.timeout, began)
                async with aclosing(run_stream(service, own, response, deadline)) as batches:
                    with budget_scope(budget):  # not over a yield: who reads has a context of its own
                        first = await anext(batches, None)
                    if first is not None:
                        delivered = True
                        yield first
                    async for batch in batches:
                        yield batch
                return
            except BackendError as error:
                if delivered or service is services[-1] or not is_unavailable(error):
                    raise
                self._cool_down(service, error)
            finally:
                self.retries = sum(each.retries for each in self._services)

    @override
    async def embed(self, texts: Texts, model: str | None = None, dimensions: int | None = None) -> EmbeddingResponse:
        return await self._with_same_model("embed", model, lambda each, name: each.embed(texts, name, dimensions))

    @override
    async def rerank(
        self, query: str, documents: Sequence[str], model: str | None = None, top_n: int | None = None
    ) -> RerankResponse:
        return await self._with_same_model(
            "rerank", model, lambda service, name: service.rerank(query, documents, name, top_n)
        )

    @override
    async def count_tokens(self, prompt: str | None = None, **arguments: Any) -> int:
        return await self._first(lambda service: service.count_tokens(prompt, **arguments))

    @override
    async def tokenize(self, text: str, model: str | None = None, *, special: bool = True) -> list[Token]:
        return await self._first(lambda service: service.tokenize(text, model, special=special))

    @override
    async def load_model(self, model: str | None = None, *, keep_alive: float | str | None = None) -> ModelInfo:
        async def call(service: LLMService) -> ModelInfo:
            name, _ = await self._model_on(service, model)
            return await service.load_model(name, keep_alive=keep_alive)

        return await self._first(call, (UnsupportedFeatureError,))

    @override
    async def unload_model(self, model: str) -> bool:
        return await self._first(lambda service: service.unload_model(model), _NOT_HERE)

    @override
    def reset_model(self, model: str) -> None:
        self._first_now(lambda service: service.reset_model(model))

    def _first_now(self, call: Callable[[LLMService], None]) -> None:
        """Let the first backend do something that it supports and whose model it has."""
        refused: RequestError | None = None
        for service in self._all():
            try:
                call(service)
                return
            except _NOT_HERE as error:
                refused = refused or error
        raise worst(None, refused)

    @override
    async def stop_model(self, model: str) -> bool:
        return await self._first(lambda service: service.stop_model(model), _NOT_HERE)

    @override
    async def engine_log(self, model: str) -> EngineLog:
        return await self._first(lambda service: service.engine_log(model), _NOT_HERE)

    @override
    def pin_model(self, model: str) -> None:
        self._first_now(lambda service: service.pin_model(model))

    @override
    def unpin_model(self, model: str) -> None:
        self._first_now(lambda service: service.unpin_model(model))

    @property
    @override
    def engine_events(self) -> EngineEvents | None:
        return next((each.engine_events for each in self._services if each.engine_events is not None), None)

    @override
    def pull_model(self, model: str, *, insecure: bool = False) -> AsyncGenerator[dict[str, Any], None]:
        for service in self._all():
            if type(service).pull_model is not LLMService.pull_model:
                return service.pull_model(model, insecure=insecure)
        return super().pull_model(model, insecure=insecure)

    @property
    @override
    def native_backend(self) -> Backend | None:
        return next((each for each in self._all() if each.native_backend is not None), None)

    @property
    @override
    def audio_backend(self) -> Backend | None:
        return next((each for each in self._all() if each.audio_backend is not None), None)

    @override
    async def list_models(self) -> list[ModelInfo]:
        return await self._first(lambda service: service.list_models())

    @override
    async def show_model(self, model: str, *, verbose: bool = False) -> ModelCard:
        return await self._first(lambda service: service.show_model(model, verbose=verbose))

    @override
    async def running_models(self) -> list[RunningModel]:
        return await self._first(lambda service: service.running_models())

    def _keeper(self) -> LLMService:
        """The first service that makes and deletes models, else the first of all."""
        services = self._all()
        return next((one for one in services if type(one).create_model is not LLMService.create_model), services[0])

    @override
    def create_model(self, name: str, recipe: ModelRecipe) -> AsyncGenerator[dict[str, Any], None]:
        return self._keeper().create_model(name, recipe)

    @override
    async def copy_model(self, source: str, destination: str) -> None:
        await self._keeper().copy_model(source, destination)

    @override
    async def delete_model(self, model: str) -> None:
        await self._keeper().delete_model(model)

    @override
    async def has_blob(self, digest: str) -> bool:
        return await self._keeper().has_blob(digest)

    @override
    async def add_blob(self, digest: str, content: AsyncIterator[bytes]) -> bool:
        return await self._keeper().add_blob(digest, content)

    @override
    async def _get_model(self, model_name: str) -> Any:
        return await self._first(lambda service: service._get_model(model_name))

    @override
    async def _health(self) -> Health:
        """Ready if any backend is; the reason is that of those that are not."""
        services = self._all()
        checks = await asyncio.gather(*(service.health() for service in services))
        reasons = [f"{each.name}: {health.reason}" for each, health in zip(services, checks, strict=True) if not health]
        best = next((health for health in checks if health), checks[0])
        return Health(
            state=best.state, reason="; ".join(reasons) or None, hint=None if best else best.hint, models=best.models,
            engines=[engine for health in checks for engine in health.engines],
        )  # fmt: skip

    @override
    async def server_loads(self) -> list[ServerLoad]:
        return [load for service in self._services for load in await service.server_loads()]

    @override
    async def _close_resources(self) -> None:
        closed = await asyncio.gather(*(service.aclose() for service in self._services), return_exceptions=True)
        for error in filter(None, closed):
            raise error


async def _has_model(service: LLMService, name: str) -> bool:
    """Whether a backend lists a model of exactly this name: some accept any name."""
    if type(service)._get_model is LLMService._get_model:
        return False
    try:
        info = await service._get_model(name)
    except RequestError:
        return False
    return isinstance(info, ModelInfo) and (name == info.id or name in info.aliases)
