"""The llama.cpp engines of one service: which model runs how, whether it fits, and a slot on it with a client."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from miner.core.engine.launchers import find_launcher
from miner.core.engine.pool import EnginePool, Lease, PoolLimits
from miner.core.engine.spec import Address, EngineSpec
from miner.core.llms.llamacpp_fit import FittedProcess, memory_within
from miner.core.llms.llamacpp_models import LocalModel, find_model, fitting_slots, spec_of
from miner.core.llms.llamacpp_wire import Props
from miner.core.models.gguf import GGUFHeader
from miner.core.models.memory import available_memory
from miner.core.transport.faults import Origin
from miner.core.transport.http import HttpClient
from miner.core.wire import EngineStatus, Progress
from miner.errors import (
    BackendError,
    BackendTimeoutError,
    BackendUnavailableError,
    StreamInterruptedError,
)

if TYPE_CHECKING:
    from miner.config.config import MinerConfig

__all__ = ["LocalEngines", "Running", "until_entered"]

News = TypeVar("News")

_BACKEND = "llamacpp"
_DEATH_NOTICE_SECONDS = 1.0
_SHARE_OF_FREE_MEMORY = 0.8


@dataclass(slots=True)
class Running:
    """One start of an engine, as a service speaks to it."""

    spec: EngineSpec
    address: Address
    http: HttpClient
    props: Props | None = None
    """What the engine says of itself; None until it was asked."""


class LocalEngines:
    """Engines by model, under the memory and the limits that the settings give. Nothing is started before a lease."""

    def __init__(self, settings: MinerConfig) -> None:
        self._settings = settings
        self._running: dict[EngineSpec, Running] = {}
        self._headers: dict[EngineSpec, GGUFHeader] = {}
        self._slots: dict[Path, int] = {}
        self.launcher = find_launcher(settings.llamacpp_server)
        self._pool = self._new_pool()

    def _new_pool(self) -> EnginePool:
        settings = self._settings
        launcher = self.launcher
        start_timeout = settings.llamacpp_start_timeout
        budget = self._budget()
        headers = self._headers  # the pool must not hold its owner: it outlives it, to stop the engines
        pool = EnginePool(
            lambda spec: FittedProcess(spec, launcher, headers[spec], start_timeout=start_timeout),
            memory_of=lambda spec: memory_within(spec, headers[spec], budget),
            limits=PoolLimits(
                memory_budget=budget,
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

    def _budget(self) -> int | None:
        """Bytes that all engines may take together."""
        if self._settings.llamacpp_memory_budget is not None:
            return self._settings.llamacpp_memory_budget
        free = available_memory(gpus=False).available
        return None if free is None else int(free * _SHARE_OF_FREE_MEMORY)

    def local(self, name: str | None) -> tuple[LocalModel, EngineSpec]:
        """The model behind a name, and how it is run."""
        model = find_model(name, self._settings)
        slots = self._slots.get(model.files.path)
        if slots is None:
            # Once for each model: the same settings must give the same engine, however much memory is free later.
            slots = fitting_slots(model, self._settings, available_memory(gpus=False), most=self.launcher.slots)
            self._slots[model.files.path] = slots
        return model, spec_of(model, self._settings, parallel=slots)

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

        Raises:
            EngineStartError: it does not fit, or does not start.
            EngineCrashedError: it died while the block ran; in place of the broken connection that was seen of it.
        """
        model, spec = self.local(name)
        self._headers[spec] = model.header
        async with self._pool.lease(spec, keep_alive=keep_alive, on_progress=on_progress) as lease:
            try:
                yield self._client_of(spec, lease.address), lease
            except (StreamInterruptedError, BackendUnavailableError, BackendTimeoutError) as error:
                await _explain(lease, error)
                raise

    def _client_of(self, spec: EngineSpec, address: Address) -> Running:
        """The client for this start of an engine; that of an earlier start is dropped."""
        running = self._running.get(spec)
        if running is None or running.address != address:
            if running is not None:
                running.http.discard()
            origin = Origin(
                backend=_BACKEND,
                base_url=f"{address.base_url}/v1",
                timeout_setting="LLAMACPP_TIMEOUT",
                silence=self._settings.llamacpp_timeout,
            )
            http = HttpClient(origin, api_key=address.api_key, unix_socket=address.unix_socket, reuse=False)
            running = self._running[spec] = Running(spec, address, http)
        return running

    def status(self) -> list[EngineStatus]:
        """Every engine that was asked for."""
        return self._pool.status()

    def loaded(self, spec: EngineSpec) -> bool:
        """Whether an engine for this model is ready."""
        return any(engine.model == spec.alias and engine.state == "ready" for engine in self.status())

    def reset(self, alias: str) -> None:
        """Forget that an engine failed."""
        self._pool.reset(alias)

    def pin(self, alias: str) -> None:
        """Keep an engine, whoever wants its room."""
        self._pool.pin(alias)

    def unpin(self, alias: str) -> None:
        """Take a pin back."""
        self._pool.unpin(alias)

    async def unload(self, alias: str) -> bool:
        """Stop an engine once its requests are done; whether there was one."""
        return await self._pool.unload(alias)

    async def aclose(self) -> None:
        """Stop all engines and close all connections."""
        running, self._running = self._running, {}
        for engine in running.values():
            await engine.http.close()
        await self._pool.aclose()


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
            crash = await lease.engine.died(lease.address)
    except TimeoutError:
        return
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
