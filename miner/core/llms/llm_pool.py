"""PoolService: the models of `miner.toml`, each on its own backend, as one service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec.structs import replace

from miner.core._typing import override
from miner.core.engine.events import EngineEvents
from miner.core.engine.logtail import EngineLog
from miner.core.http.crash_budget import budget_scope, current_budget
from miner.core.llms.contract.audio import AudioReply, no_audio, with_model
from miner.core.llms.contract.backend import Backend
from miner.core.llms.contract.deadline import Deadline
from miner.core.llms.contract.driver import run, run_stream
from miner.core.llms.contract.native import NativeBatch
from miner.core.llms.contract.server_load import ServerLoad
from miner.core.llms.contract.stream import Batches
from miner.core.llms.contract.vectors import Texts
from miner.core.llms.LLMService import LLMService
from miner.core.llms.pool.base import PoolBase
from miner.core.llms.pool.hints import keys_in_errors
from miner.core.llms.pool.holder import Holder
from miner.core.llms.pool.listing import health_of, list_models, model_states, running_models, server_loads
from miner.core.llms.pool.request import native_body, native_response, request_for
from miner.core.llms.pool.table import ServedModel
from miner.core.llms.pool.tries import Tries
from miner.core.model_card import ModelCard, ModelState, RunningModel
from miner.core.wire import ChatRequest, EmbeddingResponse, Health, LLMResponse, ModelInfo, RerankResponse, Token
from miner.errors import MinerError

if TYPE_CHECKING:
    from collections.abc import Sequence


__all__ = ["PoolService"]

T = TypeVar("T")


class PoolService(PoolBase):
    """Many models on many backends, as a file says: `MinerConfig(config="miner.toml")`.

    A request's model name decides which service gets it. All engines that are started here share one memory budget.
    While the backend of a model is unavailable, the models of its `fallbacks` serve generations; embeddings and scores
    never change their model. `apply` takes over a changed file: what did not change keeps its engines and requests.

    Raises:
        ConfigError: there is no such file, or it is wrong.
    """

    name = "pool"

    # Requests

    async def _tries(self, name: str | None) -> Tries:
        """The model of a request and its fallbacks."""
        served = await self._members.find(name)
        fallbacks = list(filter(None, map(self._members.table.find, served.model.fallbacks)))
        return Tries(served, fallbacks, self._cooldowns, self._settings.fallback_cooldown)

    @override
    async def _run_request(self, request: ChatRequest) -> LLMResponse:
        began = asyncio.get_running_loop().time()
        with self._in_flight.call(), budget_scope(current_budget()):
            tries = await self._tries(request.model)
            for candidate in tries:
                try:
                    served = self._members.current(candidate)
                    deadline = Deadline(served.holder.plan.backend, request.timeout, began)
                    with keys_in_errors(served):
                        async with deadline.entered(served.holder.use(keep_alive=request.keep_alive)) as service:
                            response = await run(service, request_for(served, request, service), deadline)
                except MinerError as error:
                    tries.note(candidate, error)
                else:
                    served.describe(response, response.usage)
                    return response
            raise AssertionError  # the last one has raised

    @override
    async def _stream_request(self, request: ChatRequest, response: LLMResponse) -> Batches:
        budget, began = current_budget(), asyncio.get_running_loop().time()
        tries = await self._tries(request.model)
        for candidate in tries:
            delivered, usage = False, None
            try:
                served = self._members.current(candidate)
                deadline = Deadline(served.holder.plan.backend, request.timeout, began)
                with keys_in_errors(served):
                    async with deadline.entered(served.holder.use(keep_alive=request.keep_alive)) as service:
                        own = request_for(served, request, service)
                        async with aclosing(run_stream(service, own, response, deadline)) as batches:
                            with budget_scope(budget):  # not over a yield: who reads has a context of its own
                                first = await anext(batches, None)
                            response.model = served.name
                            if first is not None:
                                delivered, usage = True, first[-1].usage
                                yield first
                            async for batch in batches:
                                usage = batch[-1].usage or usage
                                yield batch
                            served.describe(response, usage)
                return
            except MinerError as error:
                tries.note(candidate, error, delivered=delivered)

    @override
    async def embed(self, texts: Texts, model: str | None = None, dimensions: int | None = None) -> EmbeddingResponse:
        async def call(service: LLMService, name: str | None) -> EmbeddingResponse:
            return await service.embed(texts, name, dimensions)

        served, response = await self._call(model, call)
        served.describe(response, response.usage)
        return response

    @override
    async def rerank(
        self, query: str, documents: Sequence[str], model: str | None = None, top_n: int | None = None
    ) -> RerankResponse:
        async def call(service: LLMService, name: str | None) -> RerankResponse:
            return await service.rerank(query, documents, name, top_n)

        served, response = await self._call(model, call)
        served.describe(response, response.usage)
        return response

    @override
    async def _count_request(self, request: ChatRequest) -> int:
        with self._in_flight.call(), budget_scope(current_budget()):
            served = await self._members.find(request.model)
            with keys_in_errors(served):
                async with served.holder.use() as service:
                    return await service._count_request(request_for(served, request, service))

    @override
    async def tokenize(self, text: str, model: str | None = None, *, special: bool = True) -> list[Token]:
        async def call(service: LLMService, name: str | None) -> list[Token]:
            return await service.tokenize(text, name, special=special)

        return (await self._call(model, call, queued=False))[1]

    async def _call(
        self, model: str | None, call: Callable[[LLMService, str | None], Awaitable[T]], *, queued: bool = True,
        managed: bool = False,
    ) -> tuple[ServedModel, T]:  # fmt: skip
        """The model that the name means, and the result of a call (which computes if `queued`) with its name there."""
        with self._in_flight.call(), budget_scope(current_budget()):
            served = await self._members.find(model)
            with keys_in_errors(served):
                async with served.holder.managed() if managed else served.holder.use(queued=queued) as service:
                    return served, await call(service, served.upstream)

    # Routes of engines

    @property
    @override
    def native_backend(self) -> Backend | None:
        return self if any(each.service.native_backend is not None for each in self._members.holders()) else None

    @override
    async def native(self, path: str, body: dict[str, Any] | None = None, model: str | None = None) -> bytes:
        async def call(service: LLMService, name: str | None) -> bytes:
            return await (service.native_backend or service).native(path, body, name)

        served, raw = await self._call(model, call, queued=False)
        return native_response(served, raw)

    @override
    async def native_stream(
        self, path: str, body: dict[str, Any], model: str | None = None
    ) -> AsyncGenerator[NativeBatch, None]:
        served = await self._members.find(model)
        with keys_in_errors(served):
            async with served.holder.use() as service:
                backend = service.native_backend or service
                own = native_body(served, body)
                async with aclosing(backend.native_stream(path, own, served.upstream)) as batches:
                    async for batch in batches:
                        batch.events = [native_response(served, event) for event in batch.events]
                        yield batch

    @property
    @override
    def audio_backend(self) -> Backend | None:
        return self if any(each.service.audio_backend is not None for each in self._members.holders()) else None

    @override
    @asynccontextmanager
    async def audio(
        self, path: str, body: bytes, content_type: str, model: str | None = None
    ) -> AsyncIterator[AudioReply]:
        served = await self._members.find(model)
        with keys_in_errors(served):
            async with served.holder.use() as service:
                backend = service.audio_backend
                if backend is None:
                    raise no_audio(f"The model {served.name!r}")
                if served.upstream is not None and served.upstream != model:
                    body = with_model(body, content_type, served.upstream)
                async with backend.audio(path, body, content_type, served.upstream) as reply:
                    yield reply

    # Models

    @override
    async def list_models(self) -> list[ModelInfo]:
        return await list_models(self._members)

    @override
    async def resolve_model(self, name: str | None = None) -> ModelInfo | None:
        served = await self._members.find(name)
        inner: ModelInfo | None = None
        if served.holder.answers:
            with keys_in_errors(served):
                async with served.holder.use(queued=False) as service:
                    inner = await service.resolve_model(served.upstream)
        info = served.info(inner)
        self.models[info.id] = info
        return info

    @override
    async def _get_model(self, model_name: str) -> Any:
        return await self.resolve_model(model_name)

    @override
    async def _sole_model(self) -> str | None:
        if self._members.table.default is None:
            raise self._members.table.missing(None)
        return self._members.table.default

    @override
    async def show_model(self, model: str, *, verbose: bool = False) -> ModelCard:
        async def call(service: LLMService, name: str | None) -> ModelCard:
            return await service.show_model(name or await _only_model(service), verbose=verbose)

        served, card = await self._call(model, call, queued=False)
        return replace(card, info=served.info(card.info), system=served.model.system or card.system)

    @override
    async def running_models(self) -> list[RunningModel]:
        return await running_models(self._members)

    @override
    async def load_model(self, model: str | None = None, *, keep_alive: float | str | None = None) -> ModelInfo:
        async def call(service: LLMService, name: str | None) -> ModelInfo:
            return await service.load_model(name, keep_alive=keep_alive)

        served, info = await self._call(model, call, managed=True)
        return served.info(info)

    @override
    async def unload_model(self, model: str) -> bool:
        async def call(service: LLMService, name: str | None) -> bool:
            return await service.unload_model(name or await _only_model(service))

        return (await self._call(model, call, managed=True))[1]

    @override
    async def stop_model(self, model: str) -> bool:
        async def call(service: LLMService, name: str | None) -> bool:
            return await service.stop_model(name or await _only_model(service))

        return (await self._call(model, call, managed=True))[1]

    @override
    def reset_model(self, model: str) -> None:
        service, name = self._managed(model)
        service.reset_model(name)

    @override
    async def engine_log(self, model: str) -> EngineLog:
        service, name = self._managed(model)
        return await service.engine_log(name)

    @override
    def pin_model(self, model: str) -> None:
        service, name = self._managed(model)
        service.pin_model(name)

    @override
    def unpin_model(self, model: str) -> None:
        service, name = self._managed(model)
        service.unpin_model(name)

    def _managed(self, model: str) -> tuple[LLMService, str]:
        """The service of a model of the table, and its name there."""
        served = self._members.table.find(model)
        if served is None:
            raise self._members.table.missing(model)
        return served.holder.manager, served.upstream or served.holder.plan.alias or model

    @property
    @override
    def engine_events(self) -> EngineEvents:
        return self._members.host.events

    @override
    async def model_states(self) -> list[ModelState]:
        return await model_states(self._members)

    @override
    def pull_model(self, model: str, *, insecure: bool = False) -> AsyncGenerator[dict[str, Any], None]:
        served = self._members.table.find(model)
        holders = self._members.holders() if served is None else [served.holder]
        able = [each for each in holders if type(each.service).pull_model is not LLMService.pull_model]
        if not able:
            return super().pull_model(model, insecure=insecure)
        return self._pull(able[0], model if served is None else served.source, insecure=insecure)

    async def _pull(self, holder: Holder, name: str, *, insecure: bool) -> AsyncGenerator[dict[str, Any], None]:
        async with (
            holder.use(queued=False) as service,
            aclosing(service.pull_model(name, insecure=insecure)) as events,
        ):
            async for event in events:
                yield event

    # Health

    @override
    async def server_loads(self) -> list[ServerLoad]:
        return await server_loads(self._members)

    @override
    async def _health(self) -> Health:
        return await health_of(self._members)

    @override
    async def _close_resources(self) -> None:
        await self._members.aclose()


async def _only_model(service: LLMService) -> str:
    """The name of the model of a service that has one."""
    info = await service.resolve_model(None)
    return info.id if info is not None else service.name
