"""The engines of `[backends.NAME]` with a command: from the file's table to a process that is measured."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from miner.config.file.schema import Backend
from miner.core._typing import override
from miner.core.engine.command import CommandSpec
from miner.core.engine.command_process import CommandProcess
from miner.core.engine.spec import EngineAddress
from miner.core.engine.supervisor import RunResult, Supervisor
from miner.core.llms.pool.command_memory import Footprint, FootprintFile, vllm_gpu_memory
from miner.core.models.memory.available import Memory, available_memory, gpu_is_likely
from miner.core.models.memory.gpus import gpu_memory_of
from miner.errors import ConfigError

_START_TIMEOUT = 300.0
_STOP_TIMEOUT = 10.0
_READY = {"ollama": ("/api/version",), "openai": ("/health", "/v1/models")}
_STOPPED_BY_SIGINT = {"llamacpp"}
"""Kinds that stop on SIGINT as on SIGTERM, which is left to service managers then. vLLM would not outlast that either:
Python's multiprocessing unblocks it.
"""


def command_spec(backend: str, table: Backend, directory: Path, api_key: str | None) -> CommandSpec:
    """What a backend's command is started from.

    Args:
        directory: that of the file.

    Raises:
        ConfigError: it cannot work; names the key.
    """
    assert table.command is not None
    if table.url is not None:
        raise ConfigError(f"backends.{backend}.url: a command has no url.", hint="Set `port`, or leave both out.")
    return CommandSpec(
        backend=backend,
        argv=tuple(table.command),
        slots=table.concurrency,
        port=table.port,
        ready=(table.ready,) if table.ready is not None else _READY.get(table.kind, ("/health",)),
        env=tuple(sorted(table.env.items())),
        directory=directory / Path(table.directory or ".").expanduser(),
        stop_signal=table.stop_signal or ("SIGINT" if table.kind in _STOPPED_BY_SIGINT else "SIGTERM"),
        api_key=api_key,
        sleep=table.sleep,
    )


class CommandSource:
    """Makes the engine of one backend's command.

    Args:
        budget: the memory that all engines may take, measured already.
    """

    def __init__(self, table: Backend, budget: Callable[[], Memory], footprints: FootprintFile | None = None) -> None:
        self._table = table
        self._budget = budget
        self._footprints = footprints or FootprintFile()

    def make(self, spec: CommandSpec) -> MeasuredCommand:
        """The engine, not started."""
        return MeasuredCommand(spec, self._table, self._footprints)

    def memory_of(self, spec: CommandSpec) -> tuple[int | None, tuple[int, ...]]:
        """Bytes of main memory and on each GPU that it takes: as the file says, as its options say, or as it took at
        its last run. None: unknown.
        """
        table, last = self._table, self._footprints.get(spec)
        memory = table.memory if table.memory is not None else last.memory if last is not None else None
        gpus = tuple(table.gpu_memory) if table.gpu_memory is not None else None
        if gpus is None and table.kind == "vllm":
            gpus = vllm_gpu_memory(spec, self._budget().gpu_total)
        if gpus is None:
            gpus = last.gpu_memory if last is not None else ()
        return memory, gpus


class MeasuredCommand(CommandProcess):
    """A command whose memory is remembered for its next run."""

    def __init__(self, spec: CommandSpec, table: Backend, footprints: FootprintFile) -> None:
        super().__init__(
            spec,
            start_timeout=table.start_timeout or _START_TIMEOUT,
            stop_grace=table.stop_timeout or _STOP_TIMEOUT,
        )
        self._footprints = footprints
        self._free_before: tuple[int, ...] = ()
        self._gpu_memory: tuple[int, ...] = ()

    @property
    @override
    def gpu_memory(self) -> tuple[int, ...]:
        return self._gpu_memory

    @override
    async def ensure_ready(self) -> EngineAddress:
        if self.state == "stopped" and gpu_is_likely():
            self._free_before = (await asyncio.to_thread(available_memory)).gpu_available
        return await super().ensure_ready()

    @override
    def _on_ready(self) -> None:
        super()._on_ready()
        run = self._run
        if run is not None:
            if gpu_is_likely():
                self._gpu_memory = self._measure_gpus(run)
            self._remember(run)

    @override
    def _on_exit(self, run: Supervisor, result: RunResult) -> None:
        super()._on_exit(run, result)
        if run.ready_since is not None and os.getpid() == self._owner:
            self._remember(run)

    def _measure_gpus(self, run: Supervisor) -> tuple[int, ...]:
        """By process where the driver says it, else by what is free since."""
        pids = {pid for pid, _ in run.usage.processes} if run.usage is not None else set[int]()
        taken = gpu_memory_of(pids)
        if any(taken):
            return taken
        free = available_memory().gpu_available
        if len(free) != len(self._free_before):
            return ()
        return tuple(max(before - now, 0) for before, now in zip(self._free_before, free, strict=True))

    def _remember(self, run: Supervisor) -> None:
        if run.peak:
            self._footprints.put(self.command, Footprint(run.peak, self._gpu_memory))
