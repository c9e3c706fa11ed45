"""The llama.cpp engines of one service: which model runs how, whether it fits, and a slot on it with a client."""

from __future__ import annotations

import asyncio
import logging
import threading
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from miner.core.engine.errors import closed
from miner.core.engine.launchers import Launcher
from miner.core.engine.pool import EnginePool, Lease, PoolLimits
from miner.core.engine.spec import EngineAddress, EngineSpec
from miner.core.http.client import HttpClient
from miner.core.http.errors import Upstream
from miner.core.llms.contract.queueing import current_client
from miner.core.llms.llamacpp.catalogue import LocalModels
from miner.core.llms.llamacpp.dialect import Props
from miner.core.llms.llamacpp.fit import FittedProcess
from miner.core.llms.llamacpp.models import LocalModel
from miner.core.models.gguf.header import GGUFHeader
from miner.core.models.names import without_tag
from miner.core.models.projector import refuse_projector
from miner.core.wire import EngineStatus, ModelInfo, Progress
from miner.errors import (
    BackendError,
    BackendTimeoutError,
    BackendUnavailableError,
    EngineStartError,
    ModelNotFoundError,
    StreamInterruptedError,
)

if TYPE_CHECKING:
    from miner.config.config import MinerConfig

__all__ = ["LocalEngines", "Running", "until_entered"]

logger = logging.getLogger("miner.llamacpp")

News = TypeVar("News")

_BACKEND = "llamacpp"
_DEATH_NOTICE_SECONDS = 2.0


@dataclass(slots=True)
class Running:
    """One start of an engine, as a service speaks to it."""

    spec: EngineSpec
    address: EngineAddress
    http: HttpClient
    props: Props | None = None
    """What the engine says of itself; None until it was asked."""


class LocalEngines:
    """Engines by model, under the memory and the limits that the settings give. Nothing is started before a lease."""

    def __init__(self, settings: MinerConfig) -> None:
        self._settings = settings
        self._running: dict[EngineSpec, Running] = {}
        self._headers: dict[EngineSpec, GGUFHeader] = {}
        self.models = LocalModels(settings)
        self._found: dict[str, tuple[LocalModel, EngineSpec]] = {}
        """What each alias meant when it was asked for last."""
        self._pool: EnginePool | None = None
        self._making = threading.Lock()
        self._closed = False

    @property
    def launcher(self) -> Launcher:
        """How engines are started here.

        Raises:
            EngineStartError: in no way: none is installed.
        """
        return self.models.launcher

    def _made_pool(self) -> EnginePool:
        """The pool, made on first use."""
        with self._making:
            if self._closed:
                raise closed()
            if self._pool is None:
                self._pool = self._new_pool()
            return self._pool

    def _new_pool(self) -> EnginePool:
        settings = self._settings
        launcher = self.launcher
        start_timeout = settings.llamacpp_start_timeout
        budget = self.models.budget()
        headers, need = self._headers, self.models.need  # the pool must not hold its owner: it outlives it
        pool = EnginePool(
            lambda spec: FittedProcess(spec, launcher, headers[spec], start_timeout=start_timeout),
            memory_of=lambda spec: need(spec).ram,
            gpu_memory_of=lambda spec: need(spec).gpus,
            limits=PoolLimits(
                memory_budget=budget.available,
                gpu_budget=() if budget.unified else budget.gpu_available,
                max_queue=settings.max_queue,
                queue_timeout=settings.queue_timeout,
                max_loaded=settings.llamacpp_max_loaded,
                idle_timeout=settings.llamacpp_idle_timeout,
                fairness_wait=settings.llamacpp_fairness_wait,
            ),
        )
        # Engines that nobody owns any more, or that are alive at exit, go with their owner.
        weakref.finalize(self, pool.kill_all)
        return pool

    async def find(self, name: str | None, *, any_name: bool = False) -> tuple[LocalModel, EngineSpec]:
        """The model behind a name, and how it is run, as `LocalModels.find` has it. Where a file was replaced, the
        engine of the old one serves those who came before, and goes.
        """
        try:
            model, spec = found = await self.models.find(name, any_name=any_name)
        except ModelNotFoundError:
            gone = self._found.pop(name or "", None)
            if gone is not None:
                self._retire(gone[1])
            raise
        before = self._found.get(spec.alias)
        if before is None or before[1] != spec:
            if before is not None:
                self._retire(before[1])
            self._found[spec.alias] = found
            self._headers[spec] = model.header
        return found

    def alias_of(self, name: str) -> str | None:
        """The alias that a name means among those that were asked for; looks at no file."""
        wanted = {name.lower(), without_tag(name).lower()}
        return name if name in self._found else next((alias for alias in self._found if alias.lower() in wanted), None)

    def _retire(self, spec: EngineSpec) -> None:
        self._headers.pop(spec, None)
        self.models.forget(spec)
        self._running.pop(spec, None)
        if self._pool is not None:
            self._pool.retire(spec)

    async def infos(self) -> list[ModelInfo]:
        """All that can be named, as `LocalModels.infos` has it."""
        infos = await self.models.infos({spec.alias for spec in self._loaded()})
        for info in infos:
            if info.loaded and (found := self._found.get(info.id)) is not None:
                self._exactly(info, found[1])
        return infos

    async def info(self, name: str | None, *, any_name: bool = False) -> ModelInfo:
        """What a caller sees of the model behind a name. Raises what `find` raises."""
        model, spec = await self.find(name, any_name=any_name)
        return self._exactly(
            self.models.info(model.files, model.facts, spec.chat_template, spec in self._loaded()), spec
        )

    def _exactly(self, info: ModelInfo, spec: EngineSpec) -> ModelInfo:
        """A running engine knows more exactly than its files tell what the model can do."""
        props = self.known(spec)
        if props is not None:
            info.capabilities = props.capabilities(embeds=spec.embeds, ranks=spec.ranks) - self.launcher.lacks
        return info

    def _loaded(self) -> set[EngineSpec]:
        return self._pool.loaded() if self._pool is not None else set()

    def known(self, spec: EngineSpec) -> Props | None:
        """What an engine of this kind has said of itself."""
        running = self._running.get(spec)
        return running.props if running is not None else None

    @asynccontextmanager
    async def slot(
        self,
        name: str | None,
        *,
        keep_alive: float | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> AsyncIterator[tuple[Running, Lease]]:
        """One slot of a ready engine for this model, for the length of the block.

        Args:
            name: the alias, as `find` gave it for this request: it is not looked up again.

        Raises:
            EngineStartError: it does not fit, or does not start.
            EngineCrashedError: it died while the block ran; in place of the broken connection that was seen of it.
        """
        client = current_client()
        async with AsyncExitStack() as stack:
            while True:
                _, spec = self._found.get(name or "") or await self.find(name)
                pool = self._made_pool()
                waiting = pool.lease(spec, client=client.name, keep_alive=keep_alive, on_progress=on_progress)
                try:
                    with client.wait():
                        lease = await stack.enter_async_context(waiting)
                except EngineStartError as error:
                    if spec.mmproj is None or not _blames_projector(error):
                        raise
                    # It only adds images: the model's text must not stop for it.
                    await asyncio.to_thread(refuse_projector, spec.mmproj, f"llama.cpp cannot load it ({error})")
                    self.models.catalogue.forget()
                    await self.find(name)
                else:
                    break
            client.record(lease.queue_seconds)
            try:
                yield self._client_of(spec, lease.address), lease
            except (StreamInterruptedError, BackendUnavailableError, BackendTimeoutError) as error:
                await _explain(lease, error)
                raise

    def _client_of(self, spec: EngineSpec, address: EngineAddress) -> Running:
        """The client for this start of an engine; that of an earlier start is dropped."""
        running = self._running.get(spec)
        if running is None or running.address != address:
            if running is not None:
                running.http.discard()
            upstream = Upstream(
                backend=_BACKEND,
                base_url=f"{address.base_url}/v1",
                timeout_setting="LLAMACPP_TIMEOUT",
                read_timeout=self._settings.llamacpp_timeout,
            )
            http = HttpClient(upstream, api_key=address.api_key, unix_socket=address.unix_socket, reuse=False)
            running = self._running[spec] = Running(spec, address, http)
        return running

    def status(self) -> list[EngineStatus]:
        """Every engine that was asked for."""
        return self._pool.status() if self._pool is not None else []

    def reset(self, alias: str) -> None:
        """Forget that an engine failed."""
        if self._pool is not None:
            self._pool.reset(alias)

    def pin(self, alias: str) -> None:
        """Keep an engine, whoever wants its room."""
        self._made_pool().pin(alias)

    def unpin(self, alias: str) -> None:
        """Take a pin back."""
        if self._pool is not None:
            self._pool.unpin(alias)

    async def unload(self, alias: str) -> bool:
        """Stop an engine once its requests are done; whether there was one."""
        return self._pool is not None and await self._pool.unload(alias)

    async def aclose(self) -> None:
        """Stop all engines and close all connections."""
        with self._making:
            self._closed = True
        running, self._running = self._running, {}
        for engine in running.values():
            await engine.http.close()
        if self._pool is not None:
            await self._pool.aclose()


def _blames_projector(error: EngineStartError) -> bool:
    """Whether llama.cpp's last lines speak of the projector."""
    text = " ".join((error.message, *(error.log_tail or ()))).lower()
    return any(word in text for word in ("mmproj", "multimodal", "mtmd", "clip"))


async def _explain(lease: Lease, error: BackendError) -> None:
    """Raise the engine's death in place of what it looked like from outside, or end an engine that hangs."""
    if isinstance(error, BackendTimeoutError):
        # Each batch of prefill and each token says something: this engine hangs. Its process must go.
        lease.engine.fail(
            "it did not respond in time (LLAMACPP_TIMEOUT) and has been killed",
            "Raise LLAMACPP_TIMEOUT if it only needs longer.",
        )
        return
    if error.status is not None and error.status != 200:
        return
    try:
        # The connection breaks a moment before the exit status is known.
        async with asyncio.timeout(_DEATH_NOTICE_SECONDS):
            crash = await lease.engine.wait_for_exit(lease.address)
    except TimeoutError:
        if not isinstance(error.__cause__, ConnectionRefusedError | FileNotFoundError):
            return
        lease.engine.fail("it takes no connections any more, as after a signal from outside, and has been killed")
        crash = await lease.engine.wait_for_exit(lease.address)
    raise crash from error


async def until_entered(entering: asyncio.Future[Any], news: asyncio.Queue[News]) -> AsyncGenerator[News, None]:
    """What is told while a slot (or anything else) is waited for. Leaving early takes the request out of the queue."""
    try:
        while True:
            telling = asyncio.ensure_future(news.get())
            try:
                await asyncio.wait({entering, telling}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                telling.cancel()
            if telling.done() and not telling.cancelled():
                yield telling.result()
            elif entering.done():
                return
    finally:
        if not entering.done():
            entering.cancel()
            await asyncio.gather(entering, return_exceptions=True)
