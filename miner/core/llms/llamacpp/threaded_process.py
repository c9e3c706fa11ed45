"""ThreadedProcess: a llama.cpp engine whose number of threads is decided at each start."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from miner.core._typing import override
from miner.core.engine.affinity import bind_threads, release_threads
from miner.core.engine.launch_plan import LaunchPlan
from miner.core.engine.launchers import Launcher
from miner.core.engine.process import EngineProcess
from miner.core.engine.spec import EngineAddress, EngineSpec
from miner.core.engine.threads import EngineThreads

logger = logging.getLogger("miner.llamacpp")


@dataclass(slots=True)
class _ThreadedLauncher:
    """A launcher of engines, and how many threads they have."""

    launcher: Launcher
    threads: int | None

    @property
    def name(self) -> str:
        return self.launcher.name

    def plan(self, spec: EngineSpec, directory: Path) -> LaunchPlan:
        return self.launcher.plan(replace(spec, threads=self.threads), directory)


class ThreadedProcess(EngineProcess):
    """An engine process whose threads are not part of its spec: a table that changes does not make it another engine.

    Args:
        threads: called in a thread before each start.
        options: those of EngineProcess.
    """

    def __init__(
        self, spec: EngineSpec, launcher: Launcher, *, threads: Callable[[], EngineThreads], **options: Any
    ) -> None:
        self._threaded = _ThreadedLauncher(launcher, spec.threads)
        super().__init__(spec, self._threaded, **options)
        self._decide = threads
        self._spins = self._binds = False

    @property
    @override
    def spinning_threads(self) -> int:
        return (self._threaded.threads or 0) if self._spins else 0

    @property
    @override
    def can_bind(self) -> bool:
        return self._binds

    @override
    def bind(self) -> None:
        if self.pid is not None and self._threaded.threads is not None:
            _in_thread(bind_threads, self.pid, self._threaded.threads)

    @override
    def release(self) -> None:
        if self.pid is not None:
            _in_thread(release_threads, self.pid)

    @override
    async def ensure_ready(self) -> EngineAddress:
        if self.state == "stopped":
            decided = await asyncio.to_thread(self._decide)
            if self.state == "stopped":  # nobody else has started it meanwhile
                self._threaded.threads, self._spins, self._binds = decided
        return await super().ensure_ready()


def _in_thread(work: Callable[..., None], *arguments: int) -> None:
    """Begin it in a thread: it reads files."""
    asyncio.get_running_loop().run_in_executor(None, work, *arguments)
