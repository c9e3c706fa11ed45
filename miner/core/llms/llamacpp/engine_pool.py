"""The engine pool under the settings' limits, and the errors of requests whose engine failed."""

from __future__ import annotations

import asyncio
import sys
import weakref
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from miner.core._typing import override
from miner.core.engine.launchers import Launcher, LlamaCppPythonLauncher
from miner.core.engine.limits import PoolLimits
from miner.core.engine.procstat import physical_cores
from miner.core.engine.slot_queue import Lease
from miner.core.engine.spec import Engine, EngineAddress, EngineSpec
from miner.core.engine.threads import Cores, EngineThreads, usable_cores
from miner.core.http.client import HttpClient
from miner.core.http.errors import Upstream
from miner.core.llms.contract.capabilities import refuse_unsupported
from miner.core.llms.llamacpp.catalog import LocalModels
from miner.core.llms.llamacpp.engine_slots import EngineSlots
from miner.core.llms.llamacpp.memory import all_on_gpu, budget_of, measured_memory
from miner.core.llms.llamacpp.prompt_cache import state_bytes
from miner.core.llms.llamacpp.prompt_gate import PromptGate
from miner.core.llms.llamacpp.server import LlamaServer
from miner.core.llms.llamacpp.slot_keeper import FiledSlots, KeepingProcess, SlotKeeper
from miner.core.llms.llamacpp.slots import Placement, SlotTable
from miner.core.llms.pool.memory_meter import HostSettings
from miner.core.models.gguf.fim import FimTokens
from miner.core.models.gguf.header import GGUFHeader
from miner.core.models.memory.available import Memory
from miner.core.models.memory.kv_cache import ENCODERS
from miner.core.wire import ChatRequest, EngineStatus, Health
from miner.errors import BackendError, BackendTimeoutError, EngineStartError

if TYPE_CHECKING:
    from miner.config.config import MinerConfig

_EXIT_SECONDS = 2.0
"""A broken connection is seen shortly before the exit status."""


class EngineServer(LlamaServer):
    """One start of an engine of ours."""

    is_ours = True

    def __init__(
        self, spec: EngineSpec, address: EngineAddress, launcher: Launcher, *, header: GGUFHeader | None,
        fim: FimTokens | None, backend: str, read_timeout: float, keeper: SlotKeeper,
    ) -> None:  # fmt: skip
        upstream = Upstream(
            backend=backend,
            base_url=f"{address.base_url}/v1",
            timeout_setting="LLAMACPP_TIMEOUT",
            read_timeout=read_timeout,
        )
        http = HttpClient(upstream, api_key=address.api_key, unix_socket=address.unix_socket, reuse=False)
        super().__init__(http, prompts=PromptGate(spec.batch_size))
        self.spec = spec
        self.address = address
        self._launcher = launcher
        self._fim_in_file = fim
        self._generates = header is None or header.architecture not in ENCODERS
        self._slots: EngineSlots | None = None
        if spec.pooling is None and not isinstance(launcher, LlamaCppPythonLauncher):
            table = SlotTable(spec.parallel)
            if header is not None:
                table = SlotTable(
                    spec.parallel, memory=spec.cache_ram_mib << 20, size_of=partial(state_bytes, spec, header)
                )
            directory = address.unix_socket.parent if address.unix_socket is not None else None
            filed = FiledSlots(keeper, spec, http, table, directory, lambda: self._build)
            self._slots = EngineSlots(http, table, spec.ctx_size, filed)
            if any(kind.startswith("draft") for kind in spec.spec_types):  # all guesses would be wrong from then on
                keeper.refuse(spec, "llama.cpp cannot save what the draft model has read")
        elif spec.pooling is None:
            keeper.refuse(spec, f"{launcher.name} cannot save them")

    @property
    def _build(self) -> str | None:
        return None if self.props is None else self.props.build_info

    @property
    def capabilities(self) -> frozenset[str] | None:
        """Its capabilities by its own props; None before they were fetched."""
        if self.props is None:
            return None
        fills = self._fim_in_file is not None
        able = self.props.capabilities(
            embeds=self.spec.embeds, ranks=self.spec.ranks, fills=fills, generates=self._generates
        )
        return able - self._launcher.lacks

    @override
    def engine_slot(
        self, body: dict[str, Any], *, conversation: bool, resumed: Placement | None
    ) -> AbstractAsyncContextManager[Placement | None]:
        if self._slots is None:
            return nullcontext()
        return self._slots.hold(body, conversation=conversation, resumed=resumed)

    @override
    def slot_used(self, placement: Placement | None) -> None:
        if self._slots is not None and placement is not None:
            self._slots.table.begin(placement)

    @override
    async def fim_tokens(self) -> FimTokens | None:
        return self._fim_in_file

    @override
    def supported(self, request: ChatRequest) -> ChatRequest:
        where = f"{self.http.upstream.backend}'s model {request.model!r} (its chat template)"
        return refuse_unsupported(request, self.capabilities or frozenset(), where)


def host_settings(settings: MinerConfig, gpu_memory: Sequence[int] = ()) -> HostSettings:
    """What an engine host takes from the settings.

    Args:
        gpu_memory: at most so much of each GPU.
    """
    return HostSettings(
        measure=partial(measured_memory, settings),
        budget=lambda free: budget_of(free, settings, gpu_memory),
        limits=partial(limits_of, settings),
        kv_cache=settings.kv_cache,
        cores=settings.llamacpp_cores,
    )


def limits_of(settings: MinerConfig, budget: Memory) -> PoolLimits:
    """The limits of a pool by the settings."""
    return PoolLimits(
        memory_budget=budget.available,
        gpu_budget=() if budget.unified else budget.gpu_available,
        max_queue=settings.max_queue,
        queue_timeout=settings.queue_timeout,
        max_loaded=settings.llamacpp_max_loaded,
        # Elsewhere nobody would resume an engine that is suspended when this process is killed.
        cores=usable_cores(settings.llamacpp_cores) if sys.platform == "linux" else None,
        idle_timeout=settings.llamacpp_idle_timeout,
        fairness_wait=settings.llamacpp_fairness_wait,
    )


@dataclass(frozen=True, slots=True)
class LlamaSource:
    """Makes the engines of one service.

    Args:
        headers: of each spec that is leased, at the latest by then.
        keeper: saves the prompts of engines that are stopped for a while.
    """

    settings: MinerConfig
    models: LocalModels
    headers: Mapping[EngineSpec, GGUFHeader]
    keeper: SlotKeeper
    cores: Cores

    def make(self, spec: EngineSpec) -> Engine:
        """The engine of a spec, not started."""
        return KeepingProcess(
            spec, self.models.launcher, start_timeout=self.settings.llamacpp_start_timeout, keeper=self.keeper,
            # The engine must not keep its service alive: a service that is dropped takes its engines with it.
            threads=partial(
                _threads, weakref.ref(self.models), self.models.launcher, self.cores, spec, self.headers[spec]
            ),
        )  # fmt: skip

    def memory_of(self, spec: EngineSpec) -> tuple[int, tuple[int, ...]]:
        """Bytes of main memory and on each GPU that it takes.

        Raises:
            EngineStartError: more than there is.
        """
        need = self.models.need(spec)
        return need.ram, need.gpus


def _threads(
    models: weakref.ref[LocalModels], launcher: Launcher, cores: Cores, spec: EngineSpec, header: GGUFHeader
) -> EngineThreads:
    """The threads of an engine's next start."""
    known = models()
    if known is not None and all_on_gpu(spec, header, known.budget(), launcher):
        return EngineThreads(spec.threads or cores.count)
    if launcher.uses_openmp():
        threads = spec.threads or cores.count
        return EngineThreads(threads, binds=threads == physical_cores())
    return EngineThreads(spec.threads or cores.share(), spins=True)


def health_of(models: list[str], engines: list[EngineStatus]) -> Health:
    """The health of a service with these models, of which any may be requested, and these engines."""
    ours = {engine.model: engine for engine in engines if engine.model in models}
    failed = [engine for engine in ours.values() if engine.state == "failed"]
    if failed and len(failed) == len(models):
        soonest = min(failed, key=lambda engine: engine.retry_after or 0.0)
        hint = "Fix the cause; to try again at once, reset the model."
        return Health(
            state="failed", reason=soonest.reason, models=models, engines=engines, hint=hint,
            retry_after=soonest.retry_after,
        )  # fmt: skip
    for engine in ours.values():
        if len(models) == 1 and engine.state == "starting" and engine.reason is not None:
            reason = f"{engine.model} is being started again. {engine.reason}"
            return Health(state="loading", reason=reason, models=models, engines=engines)
    return Health(state="ready", models=models, engines=engines)


def blames_projector(error: EngineStartError) -> bool:
    """Whether llama.cpp's last log lines are about the vision projector."""
    text = " ".join((error.message, *(error.log_tail or ()))).lower()
    return any(word in text for word in ("mmproj", "multimodal", "mtmd", "clip"))


async def raise_engine_failure(lease: Lease, error: BackendError) -> None:
    """Raise the crash of the engine in place of the transport error that it caused; kill an engine that hangs.

    Raises:
        EngineCrashedError: from `error`. Nothing is raised where the engine did not cause it.
    """
    if isinstance(error, BackendTimeoutError):
        # Each batch of a prompt and each token sends something: this engine hangs.
        lease.engine.fail(
            "it did not respond in time and has been killed",
            "Raise LLAMACPP_TIMEOUT if it only needs more time.",
        )
        return
    if error.status is not None and error.status != 200:
        return
    try:
        async with asyncio.timeout(_EXIT_SECONDS):
            crash = await lease.engine.wait_for_exit(lease.address)
    except TimeoutError:
        if not isinstance(error.__cause__, ConnectionRefusedError | FileNotFoundError):
            return
        lease.engine.fail("it accepts no connections any more, as after a signal, and has been killed")
        crash = await lease.engine.wait_for_exit(lease.address)
    raise crash from error
