"""One engine over all its runs: started on demand, restarted with backoff, in a cooldown after too many crashes.

`ensure_ready` is the only call that a user needs. It decides under one lock, so there is no race between reading the
state and acting on it. `supervisor.py` supervises one run of a child process; `circuit_breaker.py` counts the crashes.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import math
import os
import threading
import time
import weakref
from collections import deque
from typing import Any

from miner.core.engine.circuit_breaker import CircuitBreaker
from miner.core.engine.diagnosis import Reason, describe_exit
from miner.core.engine.launch_plan import Planner
from miner.core.engine.logtail import SHOWN, EngineLog
from miner.core.engine.spec import EngineAddress, EngineState, ProcessSpec
from miner.core.engine.supervisor import RunResult, RunTimeouts, Supervisor
from miner.errors import EngineCrashedError, EngineStartError

_log = logging.getLogger("miner.engine")
_REMEMBERED = 8  # crashes whose requests in flight may still need the reason


class EngineProcess:
    """An engine as a child process. Usable from any thread and event loop; started by the first request.

    A crash is an exit that was not requested, also during the start, and the kill of a child that was suspended or
    hung. The next `ensure_ready` restarts it after a pause that doubles with each crash. After `crash_limit` crashes
    within `crash_window` the engine is `failed`: nothing is started during a cooldown, then the next `ensure_ready` is
    one attempt. The cooldown doubles each time; `reset` and a replaced file (the model, the program) end it.

    Args:
        start_timeout: maximum time without progress during a start (output, computing, or a change of memory); ten
            times that is the limit of the start.
        stop_grace: time from the stop signal to SIGKILL.
        backoff: first and longest pause before a restart.
        crash_limit: crashes that lead to a cooldown.
        crash_window: time within which they count.
        cooldown: first and longest cooldown. All times are in seconds.
    """

    def __init__(
        self,
        spec: ProcessSpec,
        launcher: Planner,
        *,
        start_timeout: float = 120.0,
        stop_grace: float = 3.0,
        backoff: tuple[float, float] = (0.5, 15.0),
        crash_limit: int = 3,
        crash_window: float = 60.0,
        cooldown: tuple[float, float] = (30.0, 600.0),
    ) -> None:
        self.spec = spec
        self.launcher = launcher
        self._limits = RunTimeouts(start_timeout, stop_grace)
        self._breaker = CircuitBreaker(backoff=backoff, limit=crash_limit, window=crash_window, cooldown=cooldown)
        self._clear()

    def _clear(self) -> None:
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._run: Supervisor | None = None
        self._finalizer: weakref.finalize[..., EngineProcess] | None = None
        self._restarts = 0
        self._has_failed = False
        """Whether the last run ended by a failure."""
        self._breaker.reset()
        self._crashed: EngineCrashedError | None = None
        self._remembered: deque[tuple[EngineAddress, EngineCrashedError]] = deque(maxlen=_REMEMBERED)
        self._failure: EngineStartError | EngineCrashedError | None = None
        """The last crash, or failed start."""
        self._failed_file: Any = None

    @property
    def state(self) -> EngineState:
        """The engine's current state."""
        run = self._run
        if run is None or run.exited.done:
            return "failed" if self._breaker.open_for else "stopped"
        if run.stopping:
            return "stopping"
        return "ready" if run.ready.done else "starting"

    @property
    def address(self) -> EngineAddress | None:
        """Where it listens; None unless it is ready."""
        run = self._run
        where = run.ready.value if run is not None and self.state == "ready" else None
        return where if isinstance(where, EngineAddress) else None

    @property
    def pid(self) -> int | None:
        """Process id of the child, the leader of its process group; None if none runs."""
        run = self._run
        return run.pid if run is not None and not run.exited.done else None

    @property
    def memory(self) -> int | None:
        """Resident bytes of the child and its descendants; None if none runs or it is unknown."""
        usage = self._run.usage if self._run is not None and self.pid is not None else None
        return usage.resident if usage else None

    @property
    def gpu_memory(self) -> tuple[int, ...]:
        """Bytes that it was seen to take on each GPU; empty: not measured."""
        return ()

    @property
    def spinning_threads(self) -> int:
        """Threads with which it computes on processors, without OpenMP: they spin while they wait. 0: none."""
        return 0

    @property
    def restarts(self) -> int:
        """Starts after a crash, or after a start that failed."""
        return self._restarts

    @property
    def log_tail(self) -> list[str]:
        """The last log lines of the current or last child."""
        return self._run.log.lines() if self._run is not None else []

    def log(self) -> EngineLog:
        """All complete lines that are kept of the current or last child."""
        return self._run.log.complete_lines(self._run.number) if self._run is not None else EngineLog()

    async def ensure_ready(self) -> EngineAddress:
        """Return the address of the running engine; start it if needed, once for all callers.

        Cancelling a caller does not abort the start, even if it was the only one; `stop` does.

        Raises:
            EngineStartError: it did not become ready, or is in its cooldown (has `retry_after`); has the log's last
                lines.
        """
        while True:
            await self.recheck_model_file()
            with self._own_lock():
                run = self._run
                if run is None or run.exited.done:
                    if (error := self.cooldown_error()) is not None:
                        raise error
                    run = self._start()
                stopping = run.stopping
            if stopping:
                await run.exited.wait()
                continue
            outcome = await run.ready.wait()
            if isinstance(outcome, EngineAddress):
                return outcome
            raise copy.copy(outcome)

    def cooldown_error(self) -> EngineStartError | None:
        """The error of starts during a cooldown, with `retry_after`; None outside of one."""
        seconds, failure = self._breaker.open_for, self._failure
        if not seconds or failure is None:
            return None
        return EngineStartError(
            f"The {self.spec.title} has failed {self._breaker.in_a_row} times in a row; the next attempt is "
            f"in {math.ceil(seconds)} s. The last failure: {failure.message}",
            backend=self.spec.backend,
            retryable=True,
            retry_after=seconds,
            log_tail=failure.log_tail,
            hint=failure.hint,
            operator_hint=f"{failure.operator_hint or 'See the log lines.'} To try again at once, reset the model.",
        )

    async def recheck_model_file(self) -> None:
        """Forget the crashes if the file that failed (the model, the program) was replaced since then."""
        if self.state == "failed" and await asyncio.to_thread(self.spec.fingerprint) != self._failed_file:
            self.reset()

    def crash_error(self, address: EngineAddress | None = None) -> EngineCrashedError | None:
        """Why the child crashed: None while another one runs, and after `stop` or `reset`.

        Args:
            address: of a child that a request used: why that one crashed, also if another one runs already.
        """
        crash = self._crashed if self.state in ("stopped", "failed") else None
        if address is not None:
            crash = next((crash for where, crash in reversed(self._remembered) if where == address), None)
        return copy.copy(crash)  # a shared error would collect the tracebacks of all callers

    async def wait_for_exit(self, address: EngineAddress | None = None) -> EngineCrashedError:
        """Wait until the current child, or the one at `address`, has exited; return why. At once if none runs."""
        run = self._run
        text = f"The {self.spec.title} was stopped."
        if run is not None and (address is None or run.ready.value == address):
            result = await run.exited.wait()
            text = result.error.message if result.error is not None else text
        return self.crash_error(address) or EngineCrashedError(text, backend=self.spec.backend, log_tail=self.log_tail)

    @property
    def kv_cache(self) -> str | None:
        """What of its prompts outlives a stop: none that it knows of."""
        return None

    @property
    def stop_seconds(self) -> float:
        """How long `stop` takes at most."""
        return self._limits.stop_total

    @property
    def can_sleep(self) -> bool:
        """Whether it can sleep now instead of being stopped: not this kind."""
        return False

    async def sleep(self) -> None:
        """Free all GPU memory until `ensure_ready`."""
        raise NotImplementedError

    async def before_stop(self) -> None:
        """Nothing has to be done before a stop."""

    async def stop(self) -> None:
        """Stop the child and its descendants; returns when they have exited and the socket is removed. Idempotent.

        Sends the stop signal, after `stop_grace` SIGKILL to the process group; SIGKILL at once if it is not ready or
        is suspended (SIGSTOP). A start is aborted. A process that survives SIGKILL is left to the kernel.
        """
        run = self._run
        if run is not None and self._owner == os.getpid():
            run.stop()
            try:
                async with asyncio.timeout(self._limits.stop_total):
                    await run.exited.wait()
            except TimeoutError:
                _log.warning("The %s survived SIGKILL and is left to the kernel.", self.spec.title)
            self._crashed = None

    def fail(self, reason: str, operator_hint: str | None = None) -> None:
        """Kill a child that does not work; counts as a crash for that reason ("it ..."). Returns at once."""
        if self._run is not None and self._owner == os.getpid():
            self._run.fail(Reason(reason, operator_hint))

    def suspend(self) -> None:
        """Suspend the child and its descendants if it is ready, until `resume`; a few seconds at most."""
        if self._run is not None and self._owner == os.getpid():
            self._run.suspend()

    def resume(self) -> None:
        """Let a suspended child go on."""
        if self._run is not None and self._owner == os.getpid():
            self._run.resume()

    @property
    def can_bind(self) -> bool:
        """Whether it computes on processors with OpenMP, and a thread for each core."""
        return False

    def bind(self) -> None:
        """Bind the threads that compute to one core each."""

    def release(self) -> None:
        """Undo `bind`."""

    def kill(self) -> None:
        """Kill the child, from any thread, also at interpreter exit. Waits a second at most until it has exited; not on
        a running event loop. Does nothing in a forked copy.
        """
        if self._run is not None and self._owner == os.getpid():
            self._run.kill()

    def reset(self) -> None:
        """Forget all crashes: `failed` becomes `stopped`, and the next start, or one in its pause, is not delayed."""
        with self._own_lock():
            self._breaker.reset()
            self._crashed = None
            if self._run is not None:
                self._run.skip_delay()

    # Called with the lock held.

    def _own_lock(self) -> threading.Lock:
        if self._owner != os.getpid():  # a forked copy: the child and its thread belong to the parent
            self._clear()
        return self._lock

    def _start(self) -> Supervisor:
        self._restarts += self._has_failed
        self._has_failed = False
        # The thread of the run must not keep an engine alive that is not referenced otherwise.
        ready, exited = weakref.WeakMethod(self._on_ready), weakref.WeakMethod(self._on_exit)

        def on_ready() -> None:
            if method := ready():
                method()

        def on_exit(result: RunResult) -> None:
            if method := exited():
                method(run, result)

        run = Supervisor(
            self.spec, self.launcher, self._limits, delay=self._breaker.begin(), on_ready=on_ready, on_exit=on_exit
        )
        self._run = run
        if self._finalizer is not None:
            self._finalizer.detach()
        self._finalizer = weakref.finalize(self, run.kill)  # when the engine is garbage, and at interpreter exit
        run.start()
        return run

    # Called in the thread of a run, before waiters are notified.

    def _on_ready(self) -> None:
        with self._lock:
            self._breaker.ready()

    def _on_exit(self, run: Supervisor, result: RunResult) -> None:
        if result.requested or not result.counts:
            return
        where, file = run.ready.value, self.spec.fingerprint()
        failure = self._crash(run, result) if result.error is None else result.error
        with self._lock:
            if isinstance(failure, EngineCrashedError) and isinstance(where, EngineAddress):
                self._crashed = failure
                self._remembered.append((where, failure))
            self._failure, self._failed_file, self._has_failed = failure, file, True
            ran = time.time() - run.ready_since if run.ready_since is not None else 0.0
            opened = self._breaker.failed(ran)
        if result.error is None:  # a failed start is reported to those who wait for it
            _log.warning("%s", failure.message)
        if opened and (error := self.cooldown_error()) is not None:
            _log.error("%s", error)

    def _crash(self, run: Supervisor, result: RunResult) -> EngineCrashedError:
        lines = run.log.lines(self.spec.log_lines)
        reason = result.reason or self.spec.explain(lines, result.status, served=True)
        return EngineCrashedError(
            f"The {self.spec.title} crashed ({describe_exit(result.status)}): {reason.text}.",
            backend=self.spec.backend,
            exit_status=result.status,
            log_tail=lines[-SHOWN:],
            operator_hint=reason.operator_hint,
        )
