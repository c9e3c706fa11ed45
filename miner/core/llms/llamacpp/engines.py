"""The llama.cpp engines of one service: which model runs how, a slot on it, loading, pinning, health."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

from miner.core._typing import override
from miner.core.engine.errors import closed
from miner.core.engine.events import EngineEvents
from miner.core.engine.launchers import Launcher, launcher_available
from miner.core.engine.logtail import EngineLog
from miner.core.engine.pool import EnginePool
from miner.core.engine.slot_queue import Lease
from miner.core.engine.spec import EngineSpec
from miner.core.llms.contract.queue_client import current_client
from miner.core.llms.contract.request import seconds_of
from miner.core.llms.llamacpp.cards import card_of
from miner.core.llms.llamacpp.catalog import LocalModels
from miner.core.llms.llamacpp.creation import ModelMaker
from miner.core.llms.llamacpp.engine_pool import (
    EngineServer,
    LlamaSource,
    blames_projector,
    health_of,
    host_settings,
    raise_engine_failure,
)
from miner.core.llms.llamacpp.memory import EngineMemory
from miner.core.llms.llamacpp.models import LocalModel, find_model
from miner.core.llms.llamacpp.pull import pull_from_hub
from miner.core.llms.llamacpp.server import LlamaServer, OnProgress, ServerProvider, T
from miner.core.llms.pool.host import EngineHost
from miner.core.model_card import ModelCard, RunningModel
from miner.core.models.directory import DEMO
from miner.core.models.gguf.header import GGUFHeader
from miner.core.models.names import without_tag
from miner.core.models.projector import refuse_projector
from miner.core.wire import ChatRequest, Health, ModelInfo, Timings
from miner.errors import (
    BackendTimeoutError,
    BackendUnavailableError,
    EngineStartError,
    ModelNotFoundError,
    StreamInterruptedError,
)

if TYPE_CHECKING:
    from miner.config.config import MinerConfig


class LocalEngines(ServerProvider):
    """A server provider whose engines run under the memory and the limits of the settings, each started on first use.

    Args:
        backend: the service's name, for errors.
        features: what llama.cpp supports.
        any_model_name: whether an unknown name means the model of MODEL_PATH.
        host: where engines run, if several services share it: it is not closed here.
    """

    manages_models = True

    def __init__(
        self, backend: str, features: frozenset[str], settings: MinerConfig, any_model_name: Callable[[], bool],
        host: EngineHost | None = None,
    ) -> None:  # fmt: skip
        self._backend = backend
        self._features = features
        self._settings = settings
        self._any_model_name = any_model_name
        self._servers: dict[EngineSpec, EngineServer] = {}
        self._headers: dict[EngineSpec, GGUFHeader] = {}
        self._shared = host is not None
        self._host = host = EngineHost(host_settings(settings)) if host is None else host
        self._models = LocalModels(settings, lambda: EngineMemory(*host.reserved()), host.budget, lambda: host.sharers)
        self._source = LlamaSource(settings, self._models, self._headers, host.keeper, host.cores)
        self._found: dict[str, tuple[LocalModel, EngineSpec]] = {}
        """The model that each alias meant at its last request."""
        self._served: dict[EngineSpec, dict[str, None]] = {}
        """The names under which each engine was requested since it was loaded."""
        self._closed = False

    # The launcher

    @property
    def _launcher(self) -> Launcher | None:
        """The launcher; None if none is installed: the first request reports that."""
        try:
            return self._models.launcher
        except EngineStartError:
            return None

    @property
    @override
    def capabilities(self) -> frozenset[str]:
        launcher = self._launcher
        return self._features if launcher is None else self._features - launcher.lacks

    @property
    @override
    def events(self) -> EngineEvents:
        return self._host.events

    @property
    @override
    def max_slots(self) -> int | None:
        return None if self._launcher is None else self._launcher.slots

    @property
    @override
    def has_native(self) -> bool:
        return self._launcher is None or self._launcher.has_native

    @property
    @override
    def converts_schemas(self) -> bool:
        return self._launcher is None or self._launcher.converts_schemas

    # Models

    async def _find(self, name: str | None, *, any_name: bool = False) -> tuple[LocalModel, EngineSpec]:
        """The model of this name, and how it is run (`LocalModels.find`). If its file was replaced, the old engine is
        retired.
        """
        try:
            model, spec = found = await self._models.find(name, any_name=any_name)
        except ModelNotFoundError:
            self._forget(name or "")
            raise
        before = self._found.get(model.alias)
        if before is None or before[1] != spec or before[0].recipe is not model.recipe:
            self._found[model.alias] = found
            if spec not in self._headers:
                self._headers[spec] = model.header
                self._host.adopt(spec)
            if before is not None and before[1] != spec:
                self._retire(before[1])
        return found

    def _retire(self, spec: EngineSpec) -> None:
        if any(spec == other for _, other in self._found.values()):
            return  # created models share the engine of the model that they are made of
        self._models.forget(spec)
        self._servers.pop(spec, None)
        self._served.pop(spec, None)
        if self._headers.pop(spec, None) is not None:
            self._host.drop(spec)

    def _alias(self, name: str) -> str:
        """The alias of the engine that a name means, also if its file has been removed."""
        wanted = {name.lower(), without_tag(name).lower()}
        known = name if name in self._found else next((alias for alias in self._found if alias.lower() in wanted), None)
        if known is not None:
            return self._found[known][1].alias
        return find_model(name, self._settings, self._models.catalog).engine_alias

    @override
    async def list_models(self, inherited: Callable[[], Awaitable[list[ModelInfo]]]) -> list[ModelInfo]:
        infos = await self._models.infos({spec.alias for spec in self._loaded()})
        for info in infos:
            if info.loaded and (found := self._found.get(info.id)) is not None:
                self._correct(info, found[1])
        return infos

    @override
    async def get_model(self, name: str | None, inherited: Callable[[str], Awaitable[ModelInfo]]) -> ModelInfo:
        return self._info(*await self._find(name, any_name=self._any_model_name()))

    def _info(self, model: LocalModel, spec: EngineSpec) -> ModelInfo:
        loaded = spec in self._loaded()
        return self._correct(self._models.info(model, spec.chat_template, loaded), spec)

    def _correct(self, info: ModelInfo, spec: EngineSpec) -> ModelInfo:
        """The same with the capabilities of its engine's own props, which are exact, where they are known."""
        server = self._servers.get(spec)
        exact = server.capabilities if server is not None else None
        if exact is not None:
            info.capabilities = exact
        return info

    @override
    async def sole_model(self, inherited: Callable[[], Awaitable[str | None]]) -> str | None:
        return (await self._find(None))[0].alias

    @override
    async def show_model(
        self, model: str, inherited: Callable[[], Awaitable[ModelCard]], *, verbose: bool
    ) -> ModelCard:
        found, spec = await self._find(model, any_name=self._any_model_name())
        info = self._info(found, spec)
        return await asyncio.to_thread(card_of, found, info, spec.chat_template, verbose=verbose)

    @override
    async def running_models(self, inherited: Callable[[], Awaitable[list[RunningModel]]]) -> list[RunningModel]:
        pool, running = self._host.started, []
        for spec in self._loaded() if pool is not None else ():
            need = self._models.known_need(spec)
            gpu = sum(need.gpus)
            for name in self._served.get(spec, ()):
                found = self._found.get(name)
                if found is not None and found[1] == spec and pool is not None:
                    info, expires_at = self._info(*found), pool.expires_at(spec)
                    running.append(
                        RunningModel(info=info, memory=need.ram + gpu, gpu_memory=gpu, expires_at=expires_at)
                    )
        return running

    # Slots

    @asynccontextmanager
    @override
    async def slot(
        self, request: ChatRequest | None, model: str | None, timings: Timings, on_progress: OnProgress = None
    ) -> AsyncIterator[LlamaServer]:
        name = request.model if request is not None else model
        keep_alive = None if request is None or request.keep_alive is None else seconds_of(request.keep_alive)
        async with self._lease(name, keep_alive, on_progress) as (server, lease):
            timings.queue, timings.load = lease.queue_seconds, lease.load_seconds
            if server.props is None:
                await server.fetch_props()
            yield server

    @override
    async def without_slot(self, model: str | None, ask: Callable[[LlamaServer], Awaitable[T]]) -> T:
        _, spec = self._found.get(model or "") or await self._find(model)
        running = self._servers.get(spec) if spec in self._loaded() else None
        if running is not None:
            try:
                return await ask(running)
            except BackendUnavailableError:
                pass  # it was started again, or stopped just now
        return await super().without_slot(model, ask)

    @asynccontextmanager
    async def _lease(
        self, name: str | None, keep_alive: float | None, on_progress: OnProgress = None
    ) -> AsyncIterator[tuple[EngineServer, Lease]]:
        client = current_client()
        async with AsyncExitStack() as stack:
            while True:
                # By alias, as `_find` returned it for this request: it is not looked up again.
                model, spec = self._found.get(name or "") or await self._find(name)
                waiting = self._get_pool().lease(
                    spec, self._source, client=client.in_queue, keep_alive=keep_alive, on_progress=on_progress
                )
                try:
                    with client.wait():
                        lease = await stack.enter_async_context(waiting)
                except EngineStartError as error:
                    named = self._settings.llamacpp_mmproj  # by the operator, who is to know
                    if spec.mmproj is None or named is not None or not blames_projector(error):
                        raise
                    # Without the projector the model still does text.
                    await asyncio.to_thread(refuse_projector, spec.mmproj, f"llama.cpp cannot load it ({error})")
                    self._models.catalog.forget()
                    await self._find(name)
                else:
                    break
            client.record(lease.queue_seconds)
            server = self._server_of(spec, lease)
            self._served.setdefault(spec, {})[model.alias] = None
            try:
                yield server, lease
            except (StreamInterruptedError, BackendUnavailableError, BackendTimeoutError) as error:
                await raise_engine_failure(lease, error)
                raise

    def _server_of(self, spec: EngineSpec, lease: Lease) -> EngineServer:
        """The client of this start of an engine; that of an earlier start is discarded."""
        server = self._servers.get(spec)
        if server is None or server.address != lease.address:
            if server is not None:
                server.http.discard()
                self._served.pop(spec, None)
            timeout = self._settings.llamacpp_timeout
            header = self._headers.get(spec)
            server = EngineServer(
                spec, lease.address, self._models.launcher, header=header,
                fim=header.fim_tokens if header is not None else None, backend=self._backend, read_timeout=timeout,
                keeper=self._host.keeper,
            )  # fmt: skip
            self._servers[spec] = server
        return server

    def _get_pool(self) -> EnginePool:
        if self._closed:
            raise closed()
        return self._host.pool()

    def _loaded(self) -> set[EngineSpec]:
        """The specs of this service whose engines are ready."""
        loaded = self._host.started.loaded() if self._host.started is not None else set()
        return {spec for spec in self._headers if spec in loaded}

    # Loading and health

    @override
    async def load(self, info: ModelInfo, keep_alive: float | str | None) -> ModelInfo:
        if keep_alive is not None or not info.loaded:
            async with self._lease(info.id, None if keep_alive is None else seconds_of(keep_alive)) as (server, _):
                if server.props is None:
                    await server.fetch_props()
        return self._info(*await self._find(info.id))

    @override
    async def unload(self, model: str) -> bool:
        alias = await asyncio.to_thread(self._alias, model)
        pool = self._host.started
        return pool is not None and await pool.unload(alias)

    @override
    async def stop(self, model: str) -> bool:
        alias, pool = await asyncio.to_thread(self._alias, model), self._host.started
        return pool is not None and pool.stop(alias)

    @override
    def reset(self, model: str) -> None:
        alias, pool = self._alias(model), self._host.started
        if pool is not None:
            pool.reset(alias)

    @override
    async def engine_log(self, model: str) -> EngineLog:
        alias, pool = await asyncio.to_thread(self._alias, model), self._host.started
        return pool.log_of(alias) if pool is not None else EngineLog()

    @override
    def pin(self, model: str) -> None:
        alias = self._alias(model)
        self._get_pool().pin(alias)

    @override
    def unpin(self, model: str) -> None:
        alias, pool = self._alias(model), self._host.started
        if pool is not None:
            pool.unpin(alias)

    @override
    def pull(self, model: str, *, insecure: bool) -> AsyncGenerator[dict[str, Any], None]:
        # HF_ENDPOINT alone says whether the hub has TLS.
        return pull_from_hub(model, self._settings)

    @property
    @override
    def maker(self) -> ModelMaker:
        return ModelMaker(self._settings, self._models.catalog, self._find, self._forget)

    def _forget(self, alias: str) -> None:
        """Stop the engine of a model that was deleted."""
        removed = self._found.pop(alias, None)
        if removed is not None:
            self._retire(removed[1])

    @override
    async def health(self, inherited: Callable[[], Awaitable[Health]]) -> Health:
        """Ready when the default model's engine runs or could be started."""
        settings, pool = self._settings, self._host.started
        engines = pool.status() if pool is not None else []
        if self._shared:
            own = {spec.alias for spec in self._headers}
            engines = [engine for engine in engines if engine.model in own]
        reason = await asyncio.to_thread(launcher_available, settings.llamacpp_server)
        if reason is not None:
            return Health(state="unavailable", reason=reason, engines=engines)
        try:
            models = [(await self._find(None))[0].alias]
        except ModelNotFoundError as error:
            if settings.model_path or settings.default_model or not error.available:
                raise
            # Several, of which a request names one. That there is a demo model makes no node work.
            models = [name for name in error.available if name != DEMO]
        return health_of(models, engines)

    @override
    async def aclose(self) -> None:
        """Stop all engines and close all connections. Nothing can be started afterwards."""
        self._closed = True
        servers, self._servers = self._servers, {}
        for server in servers.values():
            await server.http.close()
        if not self._shared:
            await self._host.aclose()
            return
        specs = list(self._headers)
        self._headers.clear()
        stopping = [spec for spec in specs if self._host.drop(spec)]
        if self._host.started is not None:
            await self._host.started.unloaded(stopping)
