"""CommandHolder: the service of a backend whose server we run. Each call holds a slot of the command's engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from msgspec.structs import replace

from miner.config.config import MinerConfig
from miner.core._typing import override
from miner.core.engine.command import CommandSpec
from miner.core.engine.logtail import EngineLog
from miner.core.engine.pool import EnginePool
from miner.core.engine.slot_queue import Lease
from miner.core.engine.spec import EngineAddress
from miner.core.http.client import HttpClient
from miner.core.http.errors import Upstream
from miner.core.llms.contract.queue_client import current_client
from miner.core.llms.contract.request import seconds_of
from miner.core.llms.LLMService import LLMService
from miner.core.llms.openai.server import OpenAIServer
from miner.core.llms.pool.command_engine import CommandSource
from miner.core.llms.pool.holder import Holder
from miner.core.llms.pool.host import EngineHost
from miner.core.llms.pool.plan import ADDRESS, VERSIONED, ServicePlan
from miner.core.llms.pool.sent_names import SentName, warn_of_unknown_names
from miner.core.model_card import RunningModel
from miner.core.wire import EngineStatus, Health, ModelInfo
from miner.errors import (
    BackendError,
    BackendTimeoutError,
    BackendUnavailableError,
    EngineStartError,
    MinerError,
    StreamInterruptedError,
)

_EXIT_SECONDS = 2.0
"""A broken connection is seen shortly before the exit status."""
_PROBE_SECONDS = 5.0


class CommandHolder(Holder):
    """A service over a command, which is started by the first call and stopped as other engines are.

    Args:
        config: the config object of the service: its address is set at each start.
        host: where the command runs.
    """

    def __init__(
        self, plan: ServicePlan, service: LLMService, config: Any, spec: CommandSpec, host: EngineHost, *,
        max_queue: int, queue_timeout: float,
    ) -> None:  # fmt: skip
        super().__init__(plan, service, max_queue=max_queue, queue_timeout=queue_timeout)
        self.spec = spec
        self._config = config
        self._address: object = None
        self._sent_names: list[SentName] = []
        self._names_check: asyncio.Task[None] | None = None
        self._manager = _CommandManager(self)
        self.move_to(host)

    def move_to(self, host: EngineHost) -> None:
        """Run the command there from now on."""
        self.host = host
        self._source = CommandSource(self.plan.table, host.last_budget)
        host.adopt(self.spec)

    @property
    @override
    def answers(self) -> bool:
        pool = self.host.started
        return pool is not None and self.spec in pool.loaded()

    @asynccontextmanager
    @override
    async def use(self, *, queued: bool = True, keep_alive: float | str | None = None) -> AsyncIterator[LLMService]:
        self._call_begins()
        try:
            client, pool = current_client(), await asyncio.to_thread(self.host.pool)
            seconds = None if keep_alive is None else seconds_of(keep_alive)
            async with AsyncExitStack() as stack:
                with client.wait():
                    await self._check_program(pool)
                    await self._port_free(pool)
                    waiting = pool.lease(self.spec, self._source, client=client.in_queue, keep_alive=seconds)
                    lease = await stack.enter_async_context(waiting)
                client.record(lease.queue_seconds)
                self._point_to(lease)
                try:
                    yield self.service
                except (StreamInterruptedError, BackendUnavailableError, BackendTimeoutError) as error:
                    await self._raise_crash(lease, error)
                    raise
        finally:
            self.calls -= 1
            self._call_ended()

    async def _check_program(self, pool: EnginePool) -> None:
        """Raise EngineStartError for a program that is not there: no engine is evicted for it."""
        if self.spec in pool.loaded():
            return
        problem = await asyncio.to_thread(self.spec.problem)
        if problem is not None:
            raise EngineStartError(
                f"The {self.spec.title} did not start: {problem.text}.", backend=self.spec.backend,
                operator_hint=problem.operator_hint,
            )  # fmt: skip

    async def _port_free(self, pool: EnginePool) -> None:
        """Wait for a command that this one replaces, and that still serves its last requests on the same port."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._queue_timeout
        while self.spec.port is not None and self.spec not in pool.loaded() and loop.time() < deadline:
            others = [each for each in pool.occupied() if isinstance(each, CommandSpec) and each != self.spec]
            same = [each for each in others if each.port == self.spec.port]
            if not same:
                return
            await pool.unloaded(same)

    def _point_to(self, lease: Lease) -> None:
        """Let the service talk to this start of the command."""
        if lease.address == self._address:
            return
        self._address, url, kind = lease.address, lease.address.base_url, self.plan.kind
        self._check_names(lease.address)
        if kind in ADDRESS:
            setattr(self._config, ADDRESS[kind], f"{url}/v1" if kind in VERSIONED else url)
        else:
            self._config.url = url

    def send_names(self, names: list[SentName]) -> None:
        """Say under which names its models are sent to it: a warning is logged for those that it does not list, now or
        once it runs.
        """
        changed, self._sent_names = names != self._sent_names, names
        if changed and self.answers and isinstance(self._address, EngineAddress):
            self._check_names(self._address)

    def _check_names(self, address: EngineAddress) -> None:
        """Check them while the requests go on."""
        if self.plan.kind not in ADDRESS or not self._sent_names:
            return
        if self._names_check is not None:
            self._names_check.cancel()
        any_name = isinstance(self.service, OpenAIServer) and self.service.takes_any_name
        check = warn_of_unknown_names(self.spec.backend, address, self._sent_names, any_name=any_name)
        self._names_check = asyncio.get_running_loop().create_task(check)

    async def _raise_crash(self, lease: Lease, error: BackendError) -> None:
        """Raise the crash of the command in place of the transport error that it caused; kill it if it hangs.

        Raises:
            EngineCrashedError: from `error`. Nothing is raised where the command did not cause it.
        """
        if isinstance(error, BackendTimeoutError):
            if await self._responds(lease):
                return  # it has much to do
            lease.engine.fail(
                "it did not respond in time, nor to its ready check, and has been killed",
                f"Raise backends.{self.plan.backend}.timeout if it only needs more time.",
            )
        elif error.status is not None and error.status != 200:
            return
        try:
            async with asyncio.timeout(_EXIT_SECONDS):
                crash = await lease.engine.wait_for_exit(lease.address)
        except TimeoutError:
            return
        crash.partial = error.partial
        raise crash from error

    async def _responds(self, lease: Lease) -> bool:
        address = lease.address
        upstream = Upstream(self.plan.backend, address.base_url, "timeout", _PROBE_SECONDS)
        http = HttpClient(upstream, api_key=address.api_key, reuse=False)
        try:
            response = await http.request("GET", self.spec.ready[-1], total=_PROBE_SECONDS, root=True)
            return response.status < 500
        except MinerError:
            return False
        finally:
            await http.close()

    # Loading and health

    @override
    def taken(self) -> RunningModel | None:
        pool = self.host.started
        if pool is None or not self.answers:
            return None
        memory, gpus = pool.booked(self.spec)
        return RunningModel(
            info=ModelInfo(id=self.spec.backend), memory=memory + sum(gpus), gpu_memory=sum(gpus),
            expires_at=pool.expires_at(self.spec),
        )  # fmt: skip

    @property
    @override
    def manager(self) -> LLMService:
        return self._manager

    @asynccontextmanager
    @override
    async def managed(self) -> AsyncIterator[LLMService]:
        self._call_begins()
        try:
            yield self._manager
        finally:
            self.calls -= 1
            self._call_ended()

    @override
    async def health(self) -> Health:
        """Ready when it runs or could be started."""
        status = self._status()
        engines = [status] if status is not None else []
        if status is not None and status.state == "failed":
            hint = "Fix the cause; to try again at once, reset the model."
            return Health(
                state="failed", reason=status.reason, hint=hint, engines=engines, retry_after=status.retry_after
            )
        if status is not None and status.state == "starting" and status.reason is not None:
            reason = f"{self.spec.backend} is being started again. {status.reason}"
            return Health(state="loading", reason=reason, engines=engines)
        if status is not None and status.state != "stopped":
            return Health(state="ready", engines=engines)
        problem = await asyncio.to_thread(self.spec.problem)
        if problem is not None:
            reason = f"The {self.spec.title} cannot be started: {problem.text}."
            return Health(state="unavailable", reason=reason, hint=problem.operator_hint, engines=engines)
        return Health(state="ready", engines=engines)

    def _status(self) -> EngineStatus | None:
        pool = self.host.started
        status = pool.status_of(self.spec) if pool is not None else None
        return None if status is None else self.with_slots(status)

    @override
    def with_slots(self, status: EngineStatus) -> EngineStatus:
        slots = self.service.server_slots
        if status.slots is not None or slots is None or status.state != "ready":
            return status
        busy = min(status.slots_busy, slots)  # the service lets no more through: the others wait there
        return replace(status, slots=slots, slots_busy=busy, queued=status.queued + status.slots_busy - busy)

    @override
    def discard(self) -> None:
        self.host.drop(self.spec)

    @override
    async def _close(self) -> None:
        if self._names_check is not None:
            self._names_check.cancel()
        self.host.drop(self.spec)
        await super()._close()


class _CommandManager(LLMService):
    """Starts and stops the command of a holder, whatever model of it is named."""

    def __init__(self, holder: CommandHolder) -> None:
        super().__init__(MinerConfig.model_construct())
        self.name = holder.spec.backend
        self._holder = holder

    @property
    def _pool(self) -> EnginePool | None:
        return self._holder.host.started

    @override
    async def load_model(self, model: str | None = None, *, keep_alive: float | str | None = None) -> ModelInfo:
        async with self._holder.use(queued=False, keep_alive=keep_alive):
            return ModelInfo(id=model or self.name)

    @override
    async def unload_model(self, model: str) -> bool:
        return self._pool is not None and await self._pool.unload(self._holder.spec)

    @override
    async def stop_model(self, model: str) -> bool:
        return self._pool is not None and self._pool.stop(self._holder.spec)

    @override
    async def engine_log(self, model: str) -> EngineLog:
        return self._pool.log_of(self._holder.spec) if self._pool is not None else EngineLog()

    @override
    def pin_model(self, model: str) -> None:
        self._holder.host.pool().pin(self._holder.spec)

    @override
    def unpin_model(self, model: str) -> None:
        if self._pool is not None:
            self._pool.unpin(self._holder.spec)

    @override
    def reset_model(self, model: str) -> None:
        if self._pool is not None:
            self._pool.reset(self._holder.spec)
