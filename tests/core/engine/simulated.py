"""Engines and time for the pool's tests and bench: real asyncio, real waiting, but a clock that jumps.

When nothing is ready to run, the loop's time jumps to the next timer; when there is no timer either, everybody waits
forever, and that is an error. A simulated minute takes a millisecond, and each run is the same.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

from miner.core.engine.headroom import Measure
from miner.core.engine.limits import PoolLimits
from miner.core.engine.logtail import EngineLog
from miner.core.engine.pool import EnginePool
from miner.core.engine.rules import NO_RULES, EngineRules
from miner.core.engine.slot_queue import Lease
from miner.core.engine.spec import AnySpec, EngineAddress, EngineSpec
from miner.errors import EngineCrashedError, EngineStartError, MinerError


class _Jump(selectors.SelectSelector):
    def __init__(self):
        super().__init__()
        self.now = 0.0

    def select(self, timeout=None):
        ready = super().select(0)
        if not ready and timeout is None:
            raise AssertionError("everybody waits forever")
        if not ready:
            self.now += max(0.0, timeout)
        return ready


class _Inline(ThreadPoolExecutor):
    """Runs work at once: no time may pass in a thread, of which the loop's clock knows nothing."""

    def submit(self, fn, /, *args, **kwargs):
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - it is raised where the result is awaited
            future.set_exception(error)
        return future


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose `time()` starts at 0 and jumps."""

    def __init__(self):
        self._jump = _Jump()
        super().__init__(self._jump)
        self.set_default_executor(_Inline())

    def time(self):
        return self._jump.now

    async def shutdown_default_executor(self, timeout=None):
        """Nothing is left to wait for. asyncio's own waits for a thread, of which the selector knows nothing: where it
        is late, everybody would seem to wait forever.
        """


def simulate(main: Coroutine[Any, Any, Any]) -> Any:
    """asyncio.run on a virtual clock."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


class Machine:
    """Where simulated engines run: keeps what the pool must not break, and checks it at each step."""

    def __init__(self, *, load: float = 1.0, stop: float = 0.1):
        self.load = load
        self.stop = stop
        self.prepare = 0.0
        """Seconds that an engine takes before it is stopped for a while."""
        self.prepared: list[str] = []
        self.loads = 0
        self.limits = PoolLimits()
        self.engines: list[SimulatedEngine] = []
        self.rules: dict[str, EngineRules] = {}
        """By alias; others have none."""
        self.unknown: set[str] = set()
        """Aliases whose memory is not known before they run."""
        self.taken: dict[str, int] = {}
        """Bytes that an engine is seen to take, by alias; default: half of what it needs."""
        self.events: list[tuple[str, str]] = []
        self.closing = False
        """Whether engines may be stopped while they are busy."""
        self.failures: dict[str, BaseException] = {}
        """Alias to what its next start raises."""

    def pool(self, measure: Measure | None = None, **limits: Any) -> EnginePool:
        """A pool over this machine; an engine takes its spec's ctx_size as bytes."""
        self.limits = PoolLimits(**limits)
        pool = EnginePool(self.make, limits=self.limits, memory_of=self.memory_of, measure=measure)
        pool.set_rules(self.rules_of)
        return pool

    def rules_of(self, spec: AnySpec) -> EngineRules:
        return self.rules.get(spec.alias, NO_RULES)

    def memory_of(self, spec: EngineSpec) -> int | None:
        return None if spec.alias in self.unknown else spec.ctx_size

    def make(self, spec: EngineSpec) -> "SimulatedEngine":
        engine = SimulatedEngine(self, spec)
        self.engines.append(engine)
        return engine

    def named(self, alias: str) -> "SimulatedEngine":
        """The newest engine of that name."""
        return [engine for engine in self.engines if engine.spec.alias == alias][-1]

    @property
    def running(self) -> list[str]:
        """Names of the engines that occupy memory."""
        return [engine.spec.alias for engine in self.engines if engine.state != "stopped"]

    def check(self) -> None:
        """Memory, count and groups are within the limits."""
        occupied = [engine for engine in self.engines if engine.state != "stopped"]
        if self.limits.memory_budget is not None:
            assert sum(engine.spec.ctx_size for engine in occupied) <= self.limits.memory_budget
        if self.limits.max_loaded is not None:
            assert len(occupied) <= self.limits.max_loaded
        groups = [set(self.rules_of(engine.spec).groups) for engine in occupied]
        for group in set().union(*groups):
            inside = sum(group in each for each in groups)
            assert group.max_loaded is None or inside <= group.max_loaded
            assert not group.exclusive or inside == len(occupied)


class SimulatedEngine:
    """Has the methods of an EngineProcess, and time passes in them."""

    def __init__(self, machine: Machine, spec: EngineSpec):
        self.machine = machine
        self.spec = spec
        self.state: Literal["stopped", "starting", "ready", "stopping", "failed"] = "stopped"
        self.pid = 1
        self.gpu_memory: tuple[int, ...] = ()
        self.can_sleep = False
        self.stop_seconds = 0.0
        self.restarts = 0
        self.spinning_threads = 0
        self.log_tail = ["the last line"]
        self.in_flight = 0
        self.suspended = self.bound = self.can_bind = False
        self.life = 0
        self.killed = 0
        self.resets = 0
        self.refused: EngineStartError | None = None
        self._crash: EngineCrashedError | None = None
        self._died: asyncio.Event | None = None

    def log(self) -> EngineLog:
        return EngineLog(1, 0, self.log_tail)

    @property
    def memory(self) -> int | None:
        taken = self.machine.taken.get(self.spec.alias, self.spec.ctx_size // 2)
        return taken if self.state != "stopped" else None

    async def ensure_ready(self) -> EngineAddress:
        assert self.state == "stopped", "a load is single flight"
        self.state = "starting"
        self.machine.loads += 1
        self.machine.events.append(("load", self.spec.alias))
        self.machine.check()
        if self._crash is not None:
            self.restarts += 1
        try:
            await asyncio.sleep(self.machine.load)
        except asyncio.CancelledError:
            assert self.state != "ready"
            raise
        failure = self.machine.failures.pop(self.spec.alias, None)
        if failure is not None:
            if isinstance(failure, MinerError):
                self.state = "stopped"
            raise failure
        self.state = "ready"
        self._crash = None
        self._died = asyncio.Event()
        return EngineAddress(base_url=f"http://{self.spec.alias}", unix_socket=None, api_key=None)

    @property
    def kv_cache(self) -> str | None:
        return None

    async def before_stop(self) -> None:
        assert (self.in_flight, self.state) == (0, "ready")
        self.machine.prepared.append(self.spec.alias)
        await asyncio.sleep(self.machine.prepare)
        self.machine.prepared[-1] += " done"

    async def stop(self) -> None:
        assert self.in_flight == 0 or self.machine.closing, "a busy engine was stopped"
        self.state = "stopping"
        self.machine.events.append(("stop", self.spec.alias))
        await asyncio.sleep(self.machine.stop)
        self.state = "stopped"

    def bind(self) -> None:
        assert not self.bound
        self.bound = True

    def release(self) -> None:
        self.bound = False

    def suspend(self) -> None:
        self.suspended = True

    def resume(self) -> None:
        self.suspended = False

    def kill(self) -> None:
        self.killed += 1
        self.state = "stopped"

    def fail(self, why: str, hint: str | None = None) -> None:
        self.crash()

    def cooldown_error(self) -> EngineStartError | None:
        return self.refused

    async def recheck_model_file(self) -> None:
        pass

    def reset(self) -> None:
        self.resets += 1

    def crash(self, *, noticed_after: float = 0.0) -> None:
        """Die by itself; who waits for the end hears of it later than who is connected."""
        self.state = "stopped"
        self.in_flight = 0
        self.life += 1
        self._crash = EngineCrashedError("crashed", exit_status=-11)
        assert self._died is not None
        asyncio.get_running_loop().call_later(noticed_after, self._died.set)

    def crash_error(self, address: EngineAddress | None = None) -> EngineCrashedError | None:
        return self._crash

    async def wait_for_exit(self, address: EngineAddress | None = None) -> EngineCrashedError:
        assert self._died is not None
        await self._died.wait()
        assert self._crash is not None
        return self._crash


def spec_of(alias: str, *, parallel: int = 1, size: int = 1) -> EngineSpec:
    """A spec whose `ctx_size` stands for the bytes that it takes."""
    return EngineSpec(model_path=Path(f"{alias}.gguf"), alias=alias, ctx_size=size, parallel=parallel)


@asynccontextmanager
async def use(pool: EnginePool, spec: EngineSpec, **options: Any):
    """A lease whose engine counts it, and checks that it has the slot for it."""
    async with pool.lease(spec, **options) as lease:
        engine = lease.engine
        assert isinstance(engine, SimulatedEngine)
        assert engine.spec == spec
        assert engine.state == "ready"
        engine.in_flight += 1
        assert engine.in_flight <= spec.parallel
        life = engine.life
        try:
            yield lease
        finally:
            engine.in_flight -= life == engine.life


async def request(pool: EnginePool, spec: EngineSpec, seconds: float = 1.0, **options: Any) -> Lease:
    """One request that holds its slot for so long."""
    async with use(pool, spec, **options) as lease:
        await asyncio.sleep(seconds)
    return lease


def start(work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
    """A task that has run up to its first wait after the caller's next one."""
    return asyncio.get_running_loop().create_task(work)
