"""One engine over all its runs: started when it is needed, restarted when it has crashed, left alone when it keeps on.

`ensure_ready` is the only call that a user needs. It decides under one lock, so nobody reads the state first and races.
`supervisor.py` has the run of one child; here is what connects them: one start for all who ask, and the crashes, which
`breaker.py` counts.
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
from typing import TypeVar

from miner.core.engine.circuit_breaker import CircuitBreaker
from miner.core.engine.diagnosis import FROM_OUTSIDE, Reason, describe_exit, explain
from miner.core.engine.launchers import Launcher
from miner.core.engine.spec import EngineAddress, EngineInfo, EngineSpec, EngineState
from miner.core.engine.supervisor import RunResult, RunTimeouts, Supervisor
from miner.errors import EngineCrashedError, EngineStartError

__all__ = ["EngineProcess"]

_E = TypeVar("_E", EngineCrashedError, EngineStartError)

_log = logging.getLogger("miner.engine")
_REMEMBERED = 8  # crashes that requests in flight may still ask about


class EngineProcess:
    """A llama.cpp server of ours. Usable from any thread and any event loop; nothing is started before it is asked for.

    A child that dies by itself is a crash, also while it starts, and one that had to be killed because it was stopped
    or hung. The next `ensure_ready` starts another one after a pause that doubles with each crash. After `crash_limit`
    crashes within `crash_window` seconds the engine is `failed`: nothing is started for the length of a cooldown, after
    which the next `ensure_ready` is one try. The cooldown doubles each time; `reset` ends it, and so does another model
    file in the place of the old one.

    Args:
        spec: what to run.
        launcher: how.
        start_timeout: longest time without a sign of progress while it starts; ten times that is the bound on the
            whole start. Progress is: it prints, computes, or its memory changes.
        stop_grace: from the signal to stop to SIGKILL.
        backoff: first and longest pause before a restart.
        crash_limit: crashes after which it is left alone.
        crash_window: seconds within which they count.
        cooldown: first and longest time for which it is left alone.
    """

    def __init__(
        self,
        spec: EngineSpec,
        launcher: Launcher,
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
        self._forget_everything()

    def _forget_everything(self) -> None:
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._run: Supervisor | None = None
        self._finalizer: weakref.finalize[..., EngineProcess] | None = None
        self._starts = 0
        self._breaker.reset()
        self._crashed: EngineCrashedError | None = None
        self._remembered: deque[tuple[EngineAddress, EngineCrashedError]] = deque(maxlen=_REMEMBERED)
        self._failure: EngineStartError | EngineCrashedError | None = None
        """The last one."""
        self._failed_file: tuple[float, int] | None = None

    @property
    def state(self) -> EngineState:
        """What it is doing now."""
        run = self._run
        if run is None or run.ended.done:
            return "failed" if self._breaker.open_for else "stopped"
        if run.stopping:
            return "stopping"
        return "ready" if run.ready.done else "starting"

    @property
    def address(self) -> EngineAddress | None:
        """Where it answers, None unless it is ready."""
        run = self._run
        where = run.ready.value if run is not None and self.state == "ready" else None
        return where if isinstance(where, EngineAddress) else None

    @property
    def pid(self) -> int | None:
        """Process id of the child, which leads a process group of its own; None when there is none."""
        run = self._run
        return run.pid if run is not None and not run.ended.done else None

    @property
    def memory(self) -> int | None:
        """Resident bytes of the child and all that it has started, as of a moment ago; None when there is none, or
        nobody can tell.
        """
        used = self._run.used if self._run is not None and self.pid is not None else None
        return used.resident if used else None

    @property
    def restarts(self) -> int:
        """How many times a child was started after the first."""
        return max(0, self._starts - 1)

    @property
    def log_tail(self) -> list[str]:
        """The last lines of the child that runs, or ran last."""
        return self._run.tail.lines() if self._run is not None else []

    @property
    def ready_since(self) -> float | None:
        """Seconds since 1970 when it became ready; None unless it is."""
        return self._run.ready_since if self._run is not None and self.state == "ready" else None

    @property
    def info(self) -> EngineInfo:
        """What the child said of itself when it became ready."""
        return self._run.info if self._run is not None else EngineInfo()

    async def ensure_ready(self) -> EngineAddress:
        """The address of the running engine, which is started if need be: once, however many ask.

        A caller that is cancelled does not end the start, not even when nobody else waits: the next one finds it done.
        Whoever does not want that calls `stop`.

        Raises:
            EngineStartError: it did not become ready, or has crashed too often (see `retry_after`); has llama.cpp's own
                last lines.
        """
        while True:
            await self.recheck_model_file()
            with self._lock_of_this_process():
                run = self._run
                if run is None or run.ended.done:
                    refusal = self.cooldown_error()
                    if refusal is not None:
                        raise refusal
                    run = self._start()
                stopping = run.stopping
            if stopping:
                await run.ended.wait()
                continue
            outcome = await run.ready.wait()
            if isinstance(outcome, EngineAddress):
                return outcome
            raise _own_copy(outcome)

    def cooldown_error(self) -> EngineStartError | None:
        """Why nothing is started now, with `retry_after`; None unless it has crashed too often just now."""
        seconds, failure = self._breaker.open_for, self._failure
        if not seconds or failure is None:
            return None
        return EngineStartError(
            f"The llama.cpp engine for {self.spec.alias} has failed {self._breaker.in_a_row} times; it is tried again "
            f"in {math.ceil(seconds)} s. The last time: {failure.message}",
            backend="llamacpp",
            retryable=True,
            retry_after=seconds,
            log_tail=failure.log_tail,
            hint=f"{failure.hint or 'See the log lines.'} To try again at once, reset the model.",
        )

    async def recheck_model_file(self) -> None:
        """Forget the crashes of another model file than the one that is there now."""
        if self.state == "failed" and await asyncio.to_thread(self._model_file) != self._failed_file:
            self.reset()

    def crash_error(self, address: EngineAddress | None = None) -> EngineCrashedError | None:
        """Why the child is gone, if it went by itself: None while another one runs, and after `stop` or `reset`.

        With the `address` that a request used: why that very child is gone, also when another one runs already.
        """
        if address is not None:
            found = next((crash for where, crash in reversed(self._remembered) if where == address), None)
            return _own_copy(found) if found else None
        return _own_copy(self._crashed) if self._crashed is not None and self.state in ("stopped", "failed") else None

    async def wait_for_exit(self, address: EngineAddress | None = None) -> EngineCrashedError:
        """Wait for the end of the current child, or of the one at `address`, and say why; at once if there is none.

        A child that was told to stop gives an error that says so.
        """
        run = self._run
        text = f"The llama.cpp engine for {self.spec.alias} was stopped."
        if run is not None and (address is None or run.ready.value == address):
            end = await run.ended.wait()
            text = end.error.message if end.error is not None else text
        return self.crash_error(address) or EngineCrashedError(text, backend="llamacpp", log_tail=self.log_tail)

    async def stop(self) -> None:
        """End the child and all that it has started; returns when it is gone and its socket's directory removed.

        A signal to stop, after `stop_grace` SIGKILL to its group; at once SIGKILL if it is not ready, or is stopped
        (SIGSTOP). Idempotent; a start that is under way ends too. A process that even SIGKILL does not end is left to
        the kernel.
        """
        run = self._run
        if run is not None and self._owner == os.getpid():
            run.stop()
            try:
                async with asyncio.timeout(self._limits.stop_total):
                    await run.ended.wait()
            except TimeoutError:
                _log.warning("The llama.cpp engine for %s has not stopped; it is left alone.", self.spec.alias)
            self._crashed = None

    def fail(self, why: str, hint: str | None = None) -> None:
        """End a child that does not work, as a crash for that reason ("it ..."). Returns at once."""
        if self._run is not None and self._owner == os.getpid():
            self._run.fail(Reason(why, hint))

    def kill(self) -> None:
        """End the child at once, from any thread, also at exit and when the loop is gone. Waits until it is gone, for a
        second at most; on a running event loop it does not wait. In a forked copy: does nothing.
        """
        if self._run is not None and self._owner == os.getpid():
            self._run.kill()

    def reset(self) -> None:
        """Forget all crashes: `failed` becomes `stopped`, and the next start, or one that waits, is not delayed."""
        with self._lock_of_this_process():
            self._breaker.reset()
            self._crashed = None
            if self._run is not None:
                self._run.hurry()

    # Under the lock.

    def _lock_of_this_process(self) -> threading.Lock:
        if self._owner != os.getpid():  # a forked copy: the child and its thread belong to the original
            self._forget_everything()
        return self._lock

    def _start(self) -> Supervisor:
        self._starts += 1
        # The thread of that run must not keep an engine alive that everybody else has dropped.
        ready, ended = weakref.WeakMethod(self._on_ready), weakref.WeakMethod(self._on_end)

        def on_ready() -> None:
            if method := ready():
                method()

        def on_end(end: RunResult) -> None:
            if method := ended():
                method(run, end)

        run = Supervisor(
            self.spec, self.launcher, self._limits, delay=self._breaker.begin(), on_ready=on_ready, on_end=on_end
        )
        self._run = run
        if self._finalizer is not None:
            self._finalizer.detach()
        self._finalizer = weakref.finalize(self, run.kill)  # when nobody holds the engine any more, and at exit
        run.start()
        return run

    def _model_file(self) -> tuple[float, int] | None:
        try:
            found = self.spec.model_path.stat()
        except OSError:
            return None
        return found.st_mtime, found.st_size

    # In the thread of a run, before anybody who waits for its end hears of it.

    def _on_ready(self) -> None:
        with self._lock:
            self._breaker.ready()

    def _on_end(self, run: Supervisor, end: RunResult) -> None:
        if end.by_us or not end.counts:
            return
        where, file = run.ready.value, self._model_file()
        failure = self._crash(run, end) if end.error is None else end.error
        with self._lock:
            if isinstance(failure, EngineCrashedError) and isinstance(where, EngineAddress):
                self._crashed = failure
                self._remembered.append((where, failure))
            self._failure, self._failed_file = failure, file
            ran = time.time() - run.ready_since if run.ready_since is not None else 0.0
            opened = self._breaker.failed(ran)
        if end.error is None:  # what did not start is told to those who wait for it
            _log.warning("%s", failure.message)
        refusal = self.cooldown_error() if opened else None
        if refusal is not None:
            _log.error("%s", refusal)

    def _crash(self, run: Supervisor, end: RunResult) -> EngineCrashedError:
        lines = run.tail.lines()
        reason = end.reason or (FROM_OUTSIDE if end.status == 0 else explain(lines, end.status))
        return EngineCrashedError(
            f"The llama.cpp engine for {self.spec.alias} died ({describe_exit(end.status)}): {reason.text}.",
            backend="llamacpp",
            exit_status=end.status,
            log_tail=lines,
            hint=reason.hint,
        )


def _own_copy(error: _E) -> _E:
    """For one caller: a shared error would collect the tracebacks of all."""
    return copy.copy(error)
