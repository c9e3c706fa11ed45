"""One run of one child process, supervised by one thread from start to exit.

A thread and not the event loop: output is read and the exit is noticed while the loop is busy, closed or replaced, and
nothing depends on asyncio's child watchers. It also makes PDEATHSIG safe for the child: that fires when the thread
that started it ends.

A child that is suspended (SIGSTOP, a debugger) is detected within a second and killed: it would block all requests, and
no other signal reaches it. That does not concern one that `suspend` has suspended.
"""

from __future__ import annotations

import asyncio
import itertools
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

from miner.core.engine.diagnosis import SUSPENDED, Reason, describe_exit
from miner.core.engine.launch_plan import Planner
from miner.core.engine.logtail import LINE, LogTail
from miner.core.engine.procstat import Usage, process_usage
from miner.core.engine.shared_future import SharedFuture
from miner.core.engine.socket_directory import SocketDirectory
from miner.core.engine.spec import EngineAddress, ProcessSpec
from miner.core.engine.watch import (
    STOP_SIGNAL,
    UNKILLABLE,
    StallDetector,
    SuspendDetector,
    Watch,
    kill_tree,
    signal_group,
)
from miner.errors import EngineStartError

_numbers = itertools.count(1)
_KEPT = 400
"""Lines of its log that are kept, at least."""
_LONGEST_SUSPENSION = 3.0
"""Seconds after which a child that `suspend` has suspended goes on in any case: who would resume it may hang."""


@dataclass(frozen=True, slots=True)
class RunTimeouts:
    """Limits on one run, in seconds."""

    start_timeout: float
    """Maximum time without progress during the start."""
    stop_grace: float
    """Time from STOP_SIGNAL to SIGKILL."""

    @property
    def start_total(self) -> float:
        """Maximum duration of the start, whatever its progress."""
        return 10 * self.start_timeout

    @property
    def stop_total(self) -> float:
        """Maximum duration of a stop."""
        return self.stop_grace + UNKILLABLE + 2.0


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended."""

    status: int | None
    """Exit status; negative: the signal. None: the child never ran."""
    requested: bool
    """Whether it was stopped on request."""
    error: EngineStartError | None
    """Why it never became ready; None if it did."""
    reason: Reason | None = None
    """Why it was killed as failed; None if it was not."""
    counts: bool = True
    """Whether it counts as a crash: the process failed, not its model file or launch plan."""


class Supervisor:
    """Starts a child by a launcher's plan, waits until it is ready, and reaps it. One instance for each run."""

    def __init__(
        self,
        spec: ProcessSpec,
        launcher: Planner,
        limits: RunTimeouts,
        *,
        delay: float,
        on_ready: Callable[[], None],
        on_exit: Callable[[RunResult], None],
    ) -> None:
        """`on_ready` and `on_exit` are called once at most, in the thread of this run, before waiters are notified."""
        self.number = next(_numbers)
        """Tells the runs of this process apart."""
        kept = max(_KEPT, spec.log_lines)
        self.log = LogTail(spec.alias, max_lines=kept, max_bytes=kept * LINE)
        self.ready: SharedFuture[EngineAddress | EngineStartError] = SharedFuture()
        self.exited: SharedFuture[RunResult] = SharedFuture()
        self.pid: int | None = None
        self.ready_since: float | None = None
        self.usage: Usage | None = None
        """The last sampled resource usage of the child and its descendants."""
        self.peak = 0
        """Most bytes that they had resident."""
        self._spec = spec
        self._launcher = launcher
        self._limits = limits
        self._delay = delay
        self._on_ready = on_ready
        self._on_exit = on_exit
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._stopping = False
        self._killed = False
        self._suspended_at: float | None = None
        """When `suspend` was called, in monotonic seconds; None after `resume`."""
        self._reaping = False
        """Whether the child is being killed and reaped: afterwards its pid may be another process's."""
        self._directory: SocketDirectory | None = None
        self._failure: Reason | None = None
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        self._thread = threading.Thread(target=self._supervise, name=f"miner-engine-{spec.alias}", daemon=True)

    def start(self) -> None:
        """Begin the run, in its own thread."""
        self._thread.start()

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping

    def stop(self) -> None:
        """Stop it: STOP_SIGNAL, later SIGKILL to its process group. Returns at once; wait for `exited`."""
        with self._lock:
            already, self._stopping = self._stopping, True
            self._resume()  # else no signal but SIGKILL would reach it
            if not already and not self.exited.done:
                os.write(self._wake_write, b"x")

    def skip_delay(self) -> None:
        """Start without waiting for the rest of the delay."""
        with self._lock:
            if self.pid is None and not self._stopping and not self.exited.done:
                os.write(self._wake_write, b"x")

    def suspend(self) -> None:
        """Suspend the child and its descendants (SIGSTOP) until `resume`, if it is ready; a few seconds at most."""
        with self._lock:
            if self._suspended_at is None and self.ready.done and not self._stopping and not self._reaping:
                self._suspended_at = time.monotonic()
                self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a suspended child go on."""
        with self._lock:
            self._resume()

    def _resume(self) -> None:
        if self._suspended_at is not None:
            self._suspended_at = None
            self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        if self.pid is not None and not self._reaping and os.getpid() == self._owner:
            signal_group(self.pid, number)

    def fail(self, reason: Reason) -> None:
        """Kill it because it does not work; counts as a crash for that reason. Returns at once."""
        if not self._stopping:
            self._failure = self._failure or reason
        self._kill()

    def kill(self, wait: float = 1.0) -> None:
        """SIGKILL to the process group, from any thread. Waits `wait` seconds at most; on an event loop not at all."""
        if os.getpid() != self._owner:
            return
        self._kill()
        if not _on_event_loop():
            self.exited.wait_blocking(wait)
            if self._directory is not None:
                self._directory.remove()

    def _kill(self) -> None:
        self._killed = True
        self.stop()
        with self._lock:
            if self.pid is not None and not self.exited.done:
                if _on_event_loop():  # the thread of this run finds the descendants in other groups, which reads files
                    signal_group(self.pid, signal.SIGKILL)
                else:
                    kill_tree(self.pid, self.usage)

    # The thread of this run.

    def _supervise(self) -> None:
        result = RunResult(
            None, requested=False, error=self._start_error("its supervisor failed, see the traceback", None)
        )
        try:
            result = self._run_child()
        finally:
            if self._directory is not None:
                self._directory.remove()
            self._on_exit(result)
            with self._lock:
                self.exited.set(result)
                os.close(self._wake_read)
                os.close(self._wake_write)
            # Last: a waiter that calls again must find that this run is over.
            self.ready.set(result.error or self._start_error("it was stopped during its start", None))

    def _run_child(self) -> RunResult:
        problem = self._spec.problem()
        if problem is not None:
            error = self._start_error(problem.text, problem.operator_hint)
            return RunResult(None, requested=False, error=error, counts=False)
        if self._delay > 0 and _readable(self._wake_read, self._delay):
            os.read(self._wake_read, 4096)
            if self._stopping:
                return RunResult(None, requested=True, error=None)
        try:
            self._directory = SocketDirectory()
            plan = self._launcher.plan(self._spec, self._directory.path)
            if self._stopping:
                return RunResult(None, requested=True, error=None)
            process = subprocess.Popen(  # not under the lock, which event loops wait for
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
            return RunResult(None, requested=False, error=error, counts=False)
        except (OSError, ValueError) as error:
            text = f"{self._launcher.name} cannot be started: {error}"
            return RunResult(None, requested=False, error=self._start_error(text, None))
        watch = Watch(
            process, plan.stdin, self._wake_read, self.log, lambda line: self._on_json(line, plan.address),
            checks=plan.checks,
        )  # fmt: skip
        try:
            self._watch_until_exit(watch, StallDetector(self._limits.start_timeout, starts_server=plan.starts_server))
        finally:
            with self._lock:
                self._reaping = True
            status = watch.reap(self.usage, plan.marker)
        return self._result(status)

    def _on_json(self, line: bytes, address: Callable[[str], EngineAddress]) -> None:
        """Handle a JSON line of the child's standard output: the one that reports that it is ready."""
        try:
            report: Any = json.loads(line)
            if self.ready.done or self._stopping or report["ready"] is not True:
                raise ValueError(line)
            where = address(report["address"])
        except (ValueError, TypeError, KeyError, AttributeError):
            self.log.feed(line + b"\n", "stdout")
            return
        self.ready_since = time.time()
        if self.pid is not None:
            self.usage = process_usage(self.pid)
        self._on_ready()
        self.ready.set(where)

    def _watch_until_exit(self, watch: Watch, stall: StallDetector) -> None:
        """Watch the child's progress, send the stop signal, or give up on it: `reap` kills the rest then."""
        pid, began, stop_sent = watch.process.pid, time.monotonic(), None
        suspend = SuspendDetector()
        while True:
            now = time.monotonic()
            watch.starting = not self.ready.done
            self.usage = process_usage(pid) or self.usage
            self.peak = max(self.peak, self.usage.resident if self.usage is not None else 0)
            if self._stopping and stop_sent is None:
                stop_sent = now
                # Before it is ready it has nothing to finish.
                if self.ready.done and not self._killed:
                    watch.process.send_signal(STOP_SIGNAL)
                else:
                    kill_tree(pid, self.usage)
            by_us = self._suspended_at
            suspended = suspend.look(now, self.usage if by_us is None else None)
            if by_us is not None and now - by_us >= _LONGEST_SUSPENSION:
                self.resume()
            if stop_sent is not None:
                if suspended or now >= stop_sent + self._limits.stop_grace:
                    return
                pause = min(suspend.pause, stop_sent + self._limits.stop_grace - now)
            elif suspended:
                self._kill_failed(SUSPENDED)
                continue
            elif self.ready.done:
                pause = suspend.pause
            else:
                stall.look(now, self.usage, watch.output.counted)
                if now - stall.last >= self._limits.start_timeout:
                    self._kill_failed(self._stalled(watch, f"it made no progress for {self._limits.start_timeout:g} s"))
                    continue
                if now - began >= self._limits.start_total:
                    self._kill_failed(self._stalled(watch, f"it was not ready after {now - began:.0f} s"))
                    continue
                pause = min(stall.pause, suspend.pause)
            if watch.wait(pause):
                return

    def _kill_failed(self, reason: Reason) -> None:
        if not self._stopping:  # else it is no failure
            self._failure = reason
        self._killed = self._stopping = True

    def _result(self, status: int | None) -> RunResult:
        served = isinstance(self.ready.value, EngineAddress)
        reason = self._failure
        if reason is None and self._stopping:
            return RunResult(status, requested=True, error=None)
        if served:
            return RunResult(status, requested=False, error=None, reason=reason)
        if reason is None:
            found = self._spec.explain(self.log.lines(self._spec.log_lines), status, served=False)
            reason = Reason(f"{found.text} ({describe_exit(status)})", found.operator_hint)
        return RunResult(
            status, requested=False, error=self._start_error(reason.text, reason.operator_hint), reason=reason
        )

    def _stalled(self, watch: Watch, text: str) -> Reason:
        found = self._spec.stalled(watch.output.said)
        if found is not None:
            return Reason(f"{text}; {found.text}", found.operator_hint)
        return Reason(text, f"See the log lines; raise {self._spec.start_timeout_setting} for a slow disk.")

    def _start_error(self, reason: str, operator_hint: str | None) -> EngineStartError:
        origin = f" ({self._spec.origin})" if self._spec.origin else ""
        return EngineStartError(
            f"The {self._spec.title}{origin} did not start: {reason}.",
            backend=self._spec.backend,
            log_tail=self.log.lines(),
            operator_hint=operator_hint,
        )


def _readable(pipe: int, seconds: float) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        return bool(selector.select(seconds))


def _on_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
