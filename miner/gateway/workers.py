"""Several processes behind one port: a parent that starts them, restarts the one that dies, and stops them all.

A worker is `python -m miner.gateway.worker`. It gets its plan as one line of JSON on standard input, says "ready" on
standard output, and stops when its standard input ends: when the parent is gone, so are the workers.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Sequence

import msgspec

from miner.errors import ConfigError
from miner.gateway.console import announce
from miner.gateway.listening import listen, shown
from miner.gateway.plan import Plan
from miner.gateway.shared import SharedCounters

__all__ = ["WorkerOrder", "supervise"]

logger = logging.getLogger("miner.gateway")

_READY_SECONDS = 60.0
_LONGEST_PAUSE = 30.0
_MARGIN_SECONDS = 10.0
"""Beyond the grace time, until a worker is killed."""


class WorkerOrder(msgspec.Struct, kw_only=True, frozen=True):
    """What a worker is told."""

    plan: Plan
    sockets: list[int]
    """File descriptors that it inherits."""
    counters: int
    workers: int
    index: int


async def supervise(plan: Plan, backend: str) -> int:
    """Serve with several workers until told to stop, and return the exit status.

    Args:
        backend: its name, for the announcement.

    Raises:
        ConfigError: the address cannot be had, or a worker did not start.
    """
    settings = plan.gateway_settings()
    count = settings.serve_workers
    shares = listen(settings, shares=count)
    counters = SharedCounters.create(count)
    crew = [_Member(plan, index, share, counters) for index, share in enumerate(shares)]
    stop, signals = asyncio.Event(), 0
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        nonlocal signals
        signals += 1
        stop.set()
        for member in crew:
            member.tell(signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    tasks = [asyncio.create_task(member.keep(stop)) for member in crew]
    try:
        await asyncio.gather(*(member.first for member in crew))
        for one in shares[0]:
            announce(f"miner: serving {backend} at {shown(one)} with {count} workers")
        await stop.wait()
    finally:
        stop.set()
        for member in crew:
            member.tell(signal.SIGTERM)
        done, late = await asyncio.wait(tasks, timeout=settings.serve_grace + _MARGIN_SECONDS)
        for member in crew:
            member.tell(signal.SIGKILL)
        await asyncio.gather(*done, *late, return_exceptions=True)
        for one in [one for share in shares for one in share]:
            one.close()
        counters.close()
    return 0 if signals < 2 else 128 + signal.SIGTERM


class _Member:
    """One place among the workers, and whoever fills it now."""

    def __init__(self, plan: Plan, index: int, sockets: Sequence[socket.socket], counters: SharedCounters) -> None:
        self.first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the first worker here has said that it is ready."""
        self._plan = plan
        self._index = index
        self._sockets = sockets
        self._counters = counters
        self._process: asyncio.subprocess.Process | None = None

    def tell(self, number: signal.Signals) -> None:
        """Send a signal to the worker, if there is one."""
        process = self._process
        if process is not None and process.returncode is None:
            process.send_signal(number)

    async def keep(self, stop: asyncio.Event) -> None:
        """Keep a worker at this place until `stop`."""
        pause = 0.5
        while not stop.is_set():
            status = await self._run_one(stop)
            self._counters.clear(self._index)
            if stop.is_set():
                return
            if not self.first.done():
                # It has said itself, on standard error, what is wrong.
                self.first.set_exception(ConfigError(f"Worker {self._index} did not start (exit status {status})."))
                return
            logger.error("Worker %d ended with status %d; starting it again in %.1f s.", self._index, status, pause)
            try:
                async with asyncio.timeout(pause):
                    await stop.wait()
            except TimeoutError:
                pause = min(pause * 2, _LONGEST_PAUSE)

    async def _run_one(self, stop: asyncio.Event) -> int:
        fds = [one.fileno() for one in self._sockets]
        counters = self._counters
        order = WorkerOrder(
            plan=self._plan, sockets=fds, counters=counters.fd, workers=counters.workers, index=self._index
        )
        process = self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "miner.gateway.worker",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, pass_fds=[*fds, counters.fd],
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(msgspec.json.encode(order) + b"\n")
            async with asyncio.timeout(_READY_SECONDS):
                said = await process.stdout.readline()
            if said == b"ready\n" and not self.first.done():
                self.first.set_result(None)
            if stop.is_set():
                self.tell(signal.SIGTERM)  # told to stop before it could listen to us
            return await process.wait()
        except (TimeoutError, ConnectionError):
            self.tell(signal.SIGKILL)
            return await process.wait()
        finally:
            self.tell(signal.SIGKILL)
