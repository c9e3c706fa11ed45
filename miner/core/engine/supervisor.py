"""One run of one child process, owned by one thread from its start to its end.

A thread and not the event loop: the child's output is read and its death is seen while the loop is busy, closed or
another one, and nothing depends on asyncio's child watchers. It is also what makes PDEATHSIG safe for the child, which
fires when the thread that started it ends.

A child that is stopped (SIGSTOP, a debugger) is seen within a second, whatever it does, and killed: it would keep all
who wait for it, and no other signal reaches it.
"""

from __future__ import annotations

import asyncio
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

from miner.core.engine.diagnosis import STOPPED, Reason, check_model_file, describe_exit, explain
from miner.core.engine.launchers import Launcher
from miner.core.engine.logtail import LogTail
from miner.core.engine.procstat import Usage, usage
from miner.core.engine.shared_future import SharedFuture
from miner.core.engine.socket_directory import SocketDirectory
from miner.core.engine.spec import EngineAddress, EngineInfo, EngineSpec
from miner.core.engine.watch import STOP_SIGNAL, UNKILLABLE, StallDetector, SuspendDetector, Watch, signal_group
from miner.errors import EngineStartError

__all__ = ["RunResult", "RunTimeouts", "Supervisor"]


@dataclass(frozen=True, slots=True)
class RunTimeouts:
    """Bounds on the waits for one child, in seconds."""

    start_timeout: float
    """Longest time without a sign of progress while it starts."""
    stop_grace: float
    """From STOP_SIGNAL to SIGKILL."""

    @property
    def start_total(self) -> float:
        """Longest time for a start, whatever its progress."""
        return 10 * self.start_timeout

    @property
    def stop_total(self) -> float:
        """Longest time for a stop, whatever hangs."""
        return self.stop_grace + UNKILLABLE + 2.0


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended."""

    status: int | None
    """Exit status; negative: the signal. None: it never ran."""
    by_us: bool
    """Because it was told to, not by itself."""
    error: EngineStartError | None
    """Why it never became ready, if it did not."""
    reason: Reason | None = None
    """Why we ended it, where we did because it failed."""
    counts: bool = True
    """Whether this was a failure of the process, and not of what it was asked to run."""


class Supervisor:
    """Starts a child as a launcher plans it, sees it become ready, and reaps it. Each instance is for one run."""

    def __init__(
        self,
        spec: EngineSpec,
        launcher: Launcher,
        limits: RunTimeouts,
        *,
        delay: float,
        on_ready: Callable[[], None],
        on_end: Callable[[RunResult], None],
    ) -> None:
        """`on_ready` and `on_end` are called once at most, from the thread of this run, before anybody who waits hears
        of it.
        """
        self.tail = LogTail(spec.alias)
        self.ready: SharedFuture[EngineAddress | EngineStartError] = SharedFuture()
        self.ended: SharedFuture[RunResult] = SharedFuture()
        self.info = EngineInfo()
        self.pid: int | None = None
        self.ready_since: float | None = None
        self.used: Usage | None = None
        """What the child and all that it has started use, as of a moment ago."""
        self._spec = spec
        self._launcher = launcher
        self._limits = limits
        self._delay = delay
        self._on_ready = on_ready
        self._on_end = on_end
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._stopping = False
        self._killed = False
        self._directory: SocketDirectory | None = None
        self._failure: Reason | None = None
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        self._thread = threading.Thread(target=self._supervise, name=f"miner-engine-{spec.alias}", daemon=True)

    def start(self) -> None:
        """Begin. The run goes on in a thread of its own."""
        self._thread.start()

    @property
    def stopping(self) -> bool:
        """Whether it was told to end."""
        return self._stopping

    def stop(self) -> None:
        """Tell it to end: STOP_SIGNAL, later SIGKILL to its group. Returns at once; `ended` tells when it is over."""
        with self._lock:
            told, self._stopping = self._stopping, True
            if not told and not self.ended.done:
                os.write(self._wake_write, b"x")

    def hurry(self) -> None:
        """Start without the rest of the pause."""
        with self._lock:
            if self.pid is None and not self._stopping and not self.ended.done:
                os.write(self._wake_write, b"x")

    def fail(self, reason: Reason) -> None:
        """End it by force because it does not work: a failure of its own, for that reason. Returns at once."""
        if not self._stopping:
            self._failure = self._failure or reason
        self._kill()

    def kill(self, wait: float = 1.0) -> None:
        """End it now: SIGKILL to the group, from any thread. Waits `wait` seconds at most; on an event loop, not."""
        if os.getpid() != self._owner:
            return
        self._kill()
        if not _on_a_loop():
            self.ended.wait_blocking(wait)
            if self._directory is not None:
                self._directory.remove()

    def _kill(self) -> None:
        self._killed = True
        self.stop()
        with self._lock:
            if self.pid is not None and not self.ended.done:
                signal_group(self.pid, signal.SIGKILL)

    # What follows runs in the thread of this run.

    def _supervise(self) -> None:
        end = RunResult(None, by_us=False, error=self._start_error("its supervisor failed, see the traceback", None))
        try:
            end = self._whole_run()
        finally:
            if self._directory is not None:
                self._directory.remove()
            self._on_end(end)
            with self._lock:
                self.ended.set(end)
                os.close(self._wake_read)
                os.close(self._wake_write)
            # Last: who waits for this and asks again must find that this run is over.
            self.ready.set(end.error or self._start_error("it was stopped while it started", None))

    def _whole_run(self) -> RunResult:
        fault = check_model_file(self._spec.model_path)
        if fault is not None:
            return RunResult(None, by_us=False, error=self._start_error(fault.text, fault.hint), counts=False)
        if self._delay > 0 and _readable(self._wake_read, self._delay):
            os.read(self._wake_read, 4096)
            if self._stopping:
                return RunResult(None, by_us=True, error=None)
        try:
            self._directory = SocketDirectory()
            plan = self._launcher.plan(self._spec, self._directory.path)
            if self._stopping:
                return RunResult(None, by_us=True, error=None)
            process = subprocess.Popen(  # not under the lock, for which event loops wait
                plan.argv,
                env=plan.env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd="/",
                bufsize=0,
                start_new_session=True,
            )
            with self._lock:
                self.pid = process.pid
        except EngineStartError as error:
            return RunResult(None, by_us=False, error=error, counts=False)
        except (OSError, ValueError) as error:
            text = f"{self._launcher.name} cannot be started: {error}"
            return RunResult(None, by_us=False, error=self._start_error(text, None))
        watch = Watch(process, plan.stdin, self._wake_read, self.tail, lambda line: self._said(line, plan.address))
        try:
            self._accompany(watch)
        finally:
            status = watch.reap()
        return self._judge(status)

    def _said(self, line: bytes, address: Callable[[str], EngineAddress]) -> None:
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
        if self.pid is not None:
            self.used = usage(self.pid)
        self._on_ready()
        self.ready.set(where)

    def _accompany(self, watch: Watch) -> None:
        """From the start to the death of the child: look at its signs of life, end it in order, end it by force."""
        pid, began, told = watch.process.pid, time.monotonic(), None
        progress, halt = StallDetector(self._limits.start_timeout), SuspendDetector()
        while True:
            now = time.monotonic()
            self.used = usage(pid)
            if self._stopping and told is None:
                told = now
                # Before it is ready it has nothing to finish.
                if self.ready.done and not self._killed:
                    watch.process.send_signal(STOP_SIGNAL)
                else:
                    signal_group(pid, signal.SIGKILL)
            halted = halt.look(now, self.used)
            if told is not None:
                if halted or now >= told + self._limits.stop_grace:
                    return  # what is left is killed
                pause = min(halt.pause, told + self._limits.stop_grace - now)
            elif halted:
                self._give_up(STOPPED)
                continue
            elif self.ready.done:
                pause = halt.pause
            else:
                progress.look(now, self.used, watch.bytes_read)
                if now - progress.last >= self._limits.start_timeout:
                    self._give_up(_stalled(f"it has shown no sign of progress for {self._limits.start_timeout:g} s"))
                    continue
                if now - began >= self._limits.start_total:
                    self._give_up(_stalled(f"it was not ready after {now - began:.0f} s"))
                    continue
                pause = min(progress.pause, halt.pause)
            if watch.wait(pause):
                return

    def _give_up(self, reason: Reason) -> None:
        if not self._stopping:  # else it is no failure any more
            self._failure = reason
        self._killed = self._stopping = True

    def _judge(self, status: int | None) -> RunResult:
        served = isinstance(self.ready.value, EngineAddress)
        reason = self._failure
        if reason is None and self._stopping:
            return RunResult(status, by_us=True, error=None)
        if served:
            return RunResult(status, by_us=False, error=None, reason=reason)
        if reason is None:
            found = explain(self.tail.lines(), status)
            reason = Reason(f"{found.text} ({describe_exit(status)})", found.hint)
        return RunResult(status, by_us=False, error=self._start_error(reason.text, reason.hint), reason=reason)

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


def _stalled(text: str) -> Reason:
    return Reason(text, "See the log lines; a slow disk needs a longer LLAMACPP_START_TIMEOUT.")


def _on_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
