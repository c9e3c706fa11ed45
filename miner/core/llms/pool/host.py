"""EngineHost: one pool of engines and one memory budget, for one service or for several that share them."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from miner.core.engine.errors import closed
from miner.core.engine.events import EngineEvents
from miner.core.engine.pool import EnginePool
from miner.core.engine.procstat import physical_cores
from miner.core.engine.rules import NO_RULES, EngineRules
from miner.core.engine.spec import AnySpec
from miner.core.engine.threads import Cores
from miner.core.llms.llamacpp.slot_keeper import SlotKeeper
from miner.core.llms.llamacpp.slot_store import SlotStore
from miner.core.llms.pool.memory_meter import HostSettings, MemoryMeter
from miner.core.models.memory.available import Memory


class EngineHost:
    """The engines that are started here, of whatever kind.

    Args:
        settings: may be changed with `configure`.
    """

    def __init__(self, settings: HostSettings) -> None:
        self.keeper = SlotKeeper(SlotStore(settings.kv_cache))
        """Keeps the prompts of engines that are stopped for a while."""
        self.cores = Cores(settings.cores)
        """The cores for all engines."""
        self._settings = settings
        self._meter = MemoryMeter(settings)
        self._rules: Callable[[AnySpec], EngineRules] = lambda _: NO_RULES
        self._pool: EnginePool | None = None
        self._creating = threading.Lock()
        self._users: Counter[AnySpec] = Counter()
        self.sharers = 1
        """Engines that should fit into the memory together: one takes no more than its part, if that is enough."""
        self._closed = False
        self.events = EngineEvents()
        """What happens to engines."""

    def budget(self) -> Memory:
        """The memory that all engines together may take as of now. Blocks: not for an event loop."""
        physical_cores()  # reads files once: here it may, and the limits of the pool need them
        return self._meter.budget(self._pool.running() if self._pool is not None else ())

    def last_budget(self) -> Memory:
        """The same by the last measurement. Blocks only where there was none."""
        return self._meter.last_budget()

    def configure(self, settings: HostSettings, rules_of: Callable[[AnySpec], EngineRules]) -> None:
        """Apply other limits and rules, to engines that run too: see `EnginePool.set_rules`."""
        self._settings, self._rules = settings, rules_of
        self._meter.configure(settings)
        self.cores.limit = settings.cores
        self.keeper.store.limit = settings.kv_cache
        if self._pool is not None:
            self._pool.set_rules(rules_of, settings.limits(self._meter.last_budget()))

    @property
    def started(self) -> EnginePool | None:
        """The pool; None before the first engine."""
        return self._pool

    def pool(self) -> EnginePool:
        """The pool, created when it is first needed.

        Raises:
            ServiceClosedError: it was closed.
        """
        with self._creating:
            if self._closed:
                raise closed()
            if self._pool is None:
                # The pool outlives its owner, and must not refer to it.
                limits = self._settings.limits(self._meter.last_budget())
                self._pool = EnginePool(limits=limits, events=self.events, measure=self._meter.headroom)
                self._pool.set_rules(self._rules)
                # Engines that still run when this is collected, or at exit, are killed.
                weakref.finalize(self, self._pool.kill_all)
            return self._pool

    def reserved(self) -> tuple[int, tuple[int, ...]]:
        """Bytes of main memory, and on each GPU, that loaded engines count for."""
        return self._pool.reserved() if self._pool is not None else (0, ())

    def adopt(self, spec: AnySpec) -> None:
        """A service uses this engine from now on."""
        self._users[spec] += 1

    def drop(self, spec: AnySpec) -> bool:
        """A service does not use this engine any more; return whether none does: it is stopped once its requests are
        done.
        """
        self._users[spec] -= 1
        if self._users[spec] > 0:
            return False
        del self._users[spec]
        if self._pool is not None:
            self._pool.retire(spec)
        self.keeper.forget(spec)
        return True

    async def aclose(self) -> None:
        """Stop all engines. Nothing can be started afterwards. Idempotent."""
        with self._creating:
            self._closed = True
        if self._pool is not None:
            await self._pool.aclose()
        await asyncio.to_thread(self.keeper.store.close)


@runtime_checkable
class SharesHost(Protocol):
    """A service that starts engines, and can share where they run with others."""

    host: EngineHost | None
    """None: it has a host of its own. Set before its first request."""
