"""One life of one child process, owned by one thread from its start to its burial.

A thread and not the event loop: the child's output is read and its death is seen while the loop is busy, closed or
another one, and nothing depends on asyncio's child watchers. It is also what makes PDEATHSIG safe for the child, which
fires when the thread that started it ends.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from miner.core.engine.folder import PrivateFolder
from miner.core.engine.launchers import Launcher
from miner.core.engine.logtail import LogTail
from miner.core.engine.oneshot import OneShot
from miner.core.engine.reasons import check_model_file, describe_exit, explain
from miner.core.engine.spec import Address, EngineInfo, EngineSpec
from miner.core.engine.watch import UNKILLABLE, Progress, Watch, signal_group
from miner.errors import EngineStartError

__all__ = ["Ended", "Limits", "Supervisor"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on the waits for one child, in seconds."""

    start_timeout: float
    """Longest time without a sign of progress while it starts."""
    stop_grace: float
    """From SIGTERM to SIGKILL."""

    @property
    def whole_start(self) -> float:
        """Longest time for a start, whatever its progress."""
        return 10 * self.start_timeout


@dataclass(frozen=True, slots=True)
class Ended:
    """How a life ended."""

    status: int | None
    """Exit status; negative: the signal. None: it never ran."""
    by_us: bool
    """Because it was told to, not by itself."""
    error: EngineStartError | None
    """Why it never became ready, if it did not."""
    counts: bool = True
    """Whether this was a failure of the process, and not of what it was asked to run."""


class Supervisor:
    """Starts a child as a launcher plans it, sees it become ready, and buries it. Each instance has one life."""

    def __init__(
        self,
        spec: EngineSpec,
        launcher: Launcher,
        limits: Limits,
        *,
        delay: float,
        on_end: Callable[[Ended], None],
    ) -> None:
        """`on_end` is called once, from the thread of this life, before anybody who waits hears of the end."""
        self.tail = LogTail(spec.alias)
        self.ready: OneShot[Address | EngineStartError] = OneShot()
        self.ended: OneShot[Ended] = OneShot()
        self.info = EngineInfo()
        self.pid: int | None = None
        self.ready_since: float | None = None
        self._spec = spec
        self._launcher = launcher
        self._limits = limits
        self._delay = delay
        self._on_end = on_end
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._stopping = False
        self._killed = False
        self._folder: PrivateFolder | None = None
        self._failure: EngineStartError | None = None
        self._wake_read, self._wake_write = os.pipe()
        self._thread = threading.Thread(target=self._live, name=f"miner-engine-{spec.alias}", daemon=True)

    def start(self) -> None:
        """Begin. The life goes on in a thread of its own."""
        self._thread.start()

    @property
    def stopping(self) -> bool:
        """Whether it was told to end."""
        return self._stopping

    def stop(self) -> None:
        """Tell it to end: SIGTERM to the group, later SIGKILL. Returns at once; `ended` tells when it is over."""
        with self._lock:
            told, self._stopping = self._stopping, True
            if not told and not self.ended.done:
                os.write(self._wake_write, b"x")

    def kill(self, wait: float = 1.0) -> None:
        """End it now: SIGKILL to the group, from any thread, with or without a loop. Waits `wait` seconds at most."""
        if os.getpid() != self._owner:
            return
        self._killed = True
        self.stop()
        with self._lock:
            if self.pid is not None and not self.ended.done:
                signal_group(self.pid, signal.SIGKILL)
        self.ended.wait_blocking(wait)
        if self._folder is not None:
            self._folder.remove()

    # What follows runs in the thread of this life.

    def _live(self) -> None:
        end = Ended(None, by_us=False, error=self._start_error("a fault in its supervision, see the traceback", None))
        try:
            end = self._whole_life()
        finally:
            if self._folder is not None:
                self._folder.remove()
            self._on_end(end)
            with self._lock:
                self.ended.set(end)
                os.close(self._wake_read)
                os.close(self._wake_write)
            # Last: who waits for this and asks again must find that this life is over.
            self.ready.set(end.error or self._start_error("it was stopped while it started", None))

    def _whole_life(self) -> Ended:
        fault = check_model_file(self._spec.model_path)
        if fault is not None:
            return Ended(None, by_us=False, error=self._start_error(fault.text, fault.hint), counts=False)
        if self._delay > 0 and _readable(self._wake_read, self._delay):
            return Ended(None, by_us=True, error=None)
        try:
            self._folder = PrivateFolder()
            plan = self._launcher.plan(self._spec, self._folder.path)
            with self._lock:
                if self._stopping:
                    return Ended(None, by_us=True, error=None)
                process = subprocess.Popen(
                    plan.argv,
                    env=plan.env,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    cwd="/",
                    bufsize=0,
                    start_new_session=True,
                )
                self.pid = process.pid
        except EngineStartError as error:
            return Ended(None, by_us=False, error=error, counts=False)
        except (OSError, ValueError) as error:
            text = f"{self._launcher.name} cannot be started: {error}"
            return Ended(None, by_us=False, error=self._start_error(text, None))
        watch = Watch(process, plan.stdin, self._wake_read, self.tail, lambda line: self._said(line, plan.address))
        try:
            self._accompany(watch)
        finally:
            status = watch.bury()
        return self._judge(status)

    def _said(self, line: bytes, address: Callable[[str], Address]) -> None:
        """Take a line of the child's standard output: one of them says that it is ready."""
        try:
            said: Any = json.loads(line)
            if self.ready.done or self._stopping or said["ready"] is not True:
                raise ValueError(line)
            self.info = EngineInfo(said.get("build"), said.get("n_ctx"), said.get("slots"))
            where = address(said["address"])
        except (ValueError, TypeError, KeyError, AttributeError):
            self.tail.feed(line + b"\n", "stdout")
            return
        self.ready_since = time.time()
        self.ready.set(where)

    def _accompany(self, watch: Watch) -> None:
        """From the start to the death of the child: look at its signs of life, end it in order, end it by force."""
        began = time.monotonic()
        progress = Progress(watch.process.pid, self._limits.start_timeout)
        told: float | None = None
        while True:
            now = time.monotonic()
            if self._stopping and told is None:
                told = now
                signal_group(watch.process.pid, signal.SIGKILL if self._killed else signal.SIGTERM)
            if told is not None:
                if now >= told + self._limits.stop_grace + UNKILLABLE:
                    self.tail.feed(b"miner: the process does not end, not even by SIGKILL\n")
                    return
                if now >= told + self._limits.stop_grace:
                    signal_group(watch.process.pid, signal.SIGKILL)
                pause = 0.5 if now >= told + self._limits.stop_grace else told + self._limits.stop_grace - now
            elif self.ready.done:
                pause = None
            else:
                progress.look(now, watch.bytes_read)
                stalled = now - progress.last >= self._limits.start_timeout
                if stalled or now - began >= self._limits.whole_start:
                    self._give_up(progress, now - began, stalled)
                    continue
                pause = progress.pause
            if watch.wait(pause):
                return

    def _give_up(self, progress: Progress, seconds: float, stalled: bool) -> None:
        if stalled:
            text = f"it has shown no sign of progress for {self._limits.start_timeout:g} s"
        else:
            text = f"it was not ready after {seconds:.0f} s"
        self._failure = self._start_error(text, "See the log lines; a slow disk needs a longer start time-out.")
        self._killed = self._stopping = True

    def _judge(self, status: int | None) -> Ended:
        if self._failure is not None:
            self._failure.log_tail = self.tail.lines()
            return Ended(status, by_us=False, error=self._failure)
        if self._stopping:
            return Ended(status, by_us=True, error=None)
        if isinstance(self.ready.value, Address):
            return Ended(status, by_us=False, error=None)
        reason = explain(self.tail.lines(), status)
        error = self._start_error(f"{reason.text} ({describe_exit(status)})", reason.hint)
        return Ended(status, by_us=False, error=error)

    def _start_error(self, reason: str, hint: str | None) -> EngineStartError:
        return EngineStartError(
            f"The llama.cpp engine for {self._spec.alias} ({self._spec.model_path}) did not start: {reason}.",
            backend="llamacpp",
            log_tail=self.tail.lines(),
            hint=hint,
        )


def _readable(pipe: int, seconds: float) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        return bool(selector.select(seconds))
