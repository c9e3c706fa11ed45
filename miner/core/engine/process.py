"""One engine over all its lives: started when it is needed, restarted when it has crashed, given up when it keeps on.

`ensure_ready` is the only call that a user needs. It decides under one lock, so nobody reads the state first and races.
`supervisor.py` has the life of one child; here is what connects them: one start for all who ask, the pause before the
next one, the crashes counted.
"""

from __future__ import annotations

import copy
import logging
import os
import threading
import time
import weakref
from collections import deque
from typing import Literal, TypeVar

from miner.core.engine.launchers import Launcher
from miner.core.engine.procstat import usage
from miner.core.engine.reasons import describe_exit, explain
from miner.core.engine.spec import Address, EngineInfo, EngineSpec
from miner.core.engine.supervisor import Ended, Limits, Supervisor
from miner.errors import EngineCrashedError, EngineStartError

__all__ = ["EngineProcess", "EngineState"]

EngineState = Literal["stopped", "starting", "ready", "stopping", "failed"]

_E = TypeVar("_E", EngineCrashedError, EngineStartError)

_log = logging.getLogger("miner.engine")
_REMEMBERED = 8  # crashes that requests in flight may still ask about


class EngineProcess:
    """A llama.cpp server of ours. Usable from any thread and any event loop; nothing is started before it is asked for.

    A child that dies by itself is a crash, also while it starts. The next `ensure_ready` starts another one after a
    pause that doubles with each crash. After `crash_limit` crashes within `crash_window` seconds the engine is
    `failed` until `reset`, or until its model file has changed.

    Args:
        spec: what to run.
        launcher: how.
        start_timeout: longest time without a sign of progress while it starts; ten times that is the bound on the
            whole start. Progress is: it prints, computes, or its memory changes.
        stop_grace: from SIGTERM to SIGKILL.
        backoff: first and longest pause before a restart.
        crash_limit: crashes after which it is not started any more.
        crash_window: seconds within which they count.
    """

    def __init__(
        self,
        spec: EngineSpec,
        launcher: Launcher,
        *,
        start_timeout: float = 120.0,
        stop_grace: float = 5.0,
        backoff: tuple[float, float] = (0.5, 15.0),
        crash_limit: int = 3,
        crash_window: float = 60.0,
    ) -> None:
        self.spec = spec
        self.launcher = launcher
        self._limits = Limits(start_timeout, stop_grace)
        self._backoff = backoff
        self._crash_limit = crash_limit
        self._crash_window = crash_window
        self._forget_everything()

    def _forget_everything(self) -> None:
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._life: Supervisor | None = None
        self._finalizer: weakref.finalize[..., EngineProcess] | None = None
        self._starts = 0
        self._crashes: deque[float] = deque()
        self._crashed: EngineCrashedError | None = None
        self._remembered: deque[tuple[Address, EngineCrashedError]] = deque(maxlen=_REMEMBERED)
        self._failed: EngineStartError | None = None
        self._failed_file: tuple[float, int] | None = None

    @property
    def state(self) -> EngineState:
        """What it is doing now."""
        life = self._life
        if life is None or life.ended.done:
            return "failed" if self._failed is not None else "stopped"
        if life.stopping:
            return "stopping"
        return "ready" if life.ready.done else "starting"

    @property
    def address(self) -> Address | None:
        """Where it answers, None unless it is ready."""
        life = self._life
        where = life.ready.value if life is not None and self.state == "ready" else None
        return where if isinstance(where, Address) else None

    @property
    def pid(self) -> int | None:
        """Process id of the child, which leads a process group of its own; None when there is none."""
        life = self._life
        return life.pid if life is not None and not life.ended.done else None

    @property
    def memory(self) -> int | None:
        """Resident bytes of the child and all that it has started; None when there is none, or nobody can tell."""
        used = usage(self.pid) if self.pid is not None else None
        return used.resident if used else None

    @property
    def restarts(self) -> int:
        """How many times a child was started after the first."""
        return max(0, self._starts - 1)

    @property
    def log_tail(self) -> list[str]:
        """The last lines of the child that runs, or ran last."""
        return self._life.tail.lines() if self._life is not None else []

    @property
    def ready_since(self) -> float | None:
        """Seconds since 1970 when it became ready; None unless it is."""
        return self._life.ready_since if self._life is not None and self.state == "ready" else None

    @property
    def info(self) -> EngineInfo:
        """What the child said of itself when it became ready."""
        return self._life.info if self._life is not None else EngineInfo()

    async def ensure_ready(self) -> Address:
        """The address of the running engine, which is started if need be: once, however many ask.

        A caller that is cancelled does not end the start, not even when nobody else waits: the next one finds it done.
        Whoever does not want that calls `stop`.

        Raises:
            EngineStartError: it did not become ready, or has crashed too often; has llama.cpp's own last lines.
        """
        while True:
            with self._lock_of_this_process():
                life = self._life
                if life is None or life.ended.done:
                    self._refuse_if_failed()
                    life = self._start()
                stopping = life.stopping
            if stopping:
                await life.ended.wait()
                continue
            outcome = await life.ready.wait()
            if isinstance(outcome, Address):
                return outcome
            raise _own_copy(outcome)

    def crashed(self, address: Address | None = None) -> EngineCrashedError | None:
        """Why the child is gone, if it went by itself: None while another one runs, and after `stop` or `reset`.

        With the `address` that a request used: why that very child is gone, also when another one runs already.
        """
        if address is not None:
            found = next((crash for where, crash in reversed(self._remembered) if where == address), None)
            return _own_copy(found) if found else None
        return _own_copy(self._crashed) if self._crashed is not None and self.state in ("stopped", "failed") else None

    async def died(self, address: Address | None = None) -> EngineCrashedError:
        """Wait for the end of the current child, or of the one at `address`, and say why; at once if there is none.

        A child that was told to stop gives an error that says so.
        """
        life = self._life
        text = f"The llama.cpp engine for {self.spec.alias} was stopped."
        if life is not None and (address is None or life.ready.value == address):
            end = await life.ended.wait()
            text = end.error.message if end.error is not None else text
        return self.crashed(address) or EngineCrashedError(text, backend="llamacpp", log_tail=self.log_tail)

    async def stop(self) -> None:
        """End the child and all that it has started; returns when it is gone and its socket's folder removed.

        SIGTERM to its group, after `stop_grace` SIGKILL. Idempotent; a start that is under way ends too.
        """
        life = self._life
        if life is not None and self._owner == os.getpid():
            life.stop()
            await life.ended.wait()
            self._crashed = None

    def kill(self) -> None:
        """End the child at once, without a loop: at exit, or when the loop is gone. In a forked copy: does nothing."""
        if self._life is not None and self._owner == os.getpid():
            self._life.kill()

    def reset(self) -> None:
        """Forget all crashes: `failed` becomes `stopped`, and the next start is not delayed."""
        with self._lock_of_this_process():
            self._crashes.clear()
            self._crashed = None
            self._failed = None

    # Under the lock.

    def _lock_of_this_process(self) -> threading.Lock:
        if self._owner != os.getpid():  # a forked copy: the child and its thread belong to the original
            self._forget_everything()
        return self._lock

    def _refuse_if_failed(self) -> None:
        if self._failed is None:
            return
        if self._failed_file != self._model_file():
            self._crashes.clear()
            self._failed = None
            return
        raise _own_copy(self._failed)

    def _start(self) -> Supervisor:
        self._starts += 1
        # The thread of that life must not keep an engine alive that everybody else has dropped.
        ended = weakref.WeakMethod(self._on_end)

        def on_end(end: Ended) -> None:
            method = ended()
            if method is not None:
                method(life, end)

        life = Supervisor(self.spec, self.launcher, self._limits, delay=self._pause(), on_end=on_end)
        self._life = life
        if self._finalizer is not None:
            self._finalizer.detach()
        self._finalizer = weakref.finalize(self, life.kill)  # when nobody holds the engine any more, and at exit
        life.start()
        return life

    def _pause(self) -> float:
        """Seconds until the next start may be."""
        self._drop_old_crashes()
        if not self._crashes:
            return 0.0
        first, longest = self._backoff
        pause = min(longest, first * 2.0 ** (len(self._crashes) - 1))
        return max(0.0, self._crashes[-1] + pause - time.monotonic())

    def _drop_old_crashes(self) -> None:
        while self._crashes and self._crashes[0] < time.monotonic() - self._crash_window:
            self._crashes.popleft()

    def _model_file(self) -> tuple[float, int] | None:
        try:
            found = self.spec.model_path.stat()
        except OSError:
            return None
        return found.st_mtime, found.st_size

    # In the thread of a life, before anybody who waits for its end hears of it.

    def _on_end(self, life: Supervisor, end: Ended) -> None:
        if end.by_us or not end.counts:
            return
        with self._lock:
            self._crashes.append(time.monotonic())
            self._drop_old_crashes()
            where = life.ready.value
            if isinstance(where, Address):
                self._crashed = self._crash(life, end)
                self._remembered.append((where, self._crashed))
                _log.warning("%s", self._crashed.message)
            if len(self._crashes) >= self._crash_limit:
                self._failed = self._give_up(life, end)
                self._failed_file = self._model_file()
                _log.error("%s", self._failed.message)

    def _crash(self, life: Supervisor, end: Ended) -> EngineCrashedError:
        lines = life.tail.lines()
        reason = explain(lines, end.status)
        return EngineCrashedError(
            f"The llama.cpp engine for {self.spec.alias} died ({describe_exit(end.status)}): {reason.text}.",
            backend="llamacpp",
            exit_status=end.status,
            log_tail=lines,
            hint=reason.hint,
        )

    def _give_up(self, life: Supervisor, end: Ended) -> EngineStartError:
        last = end.error or self._crashed
        return EngineStartError(
            f"The llama.cpp engine for {self.spec.alias} has failed {len(self._crashes)} times within "
            f"{self._crash_window:g} s and is not started any more. The last time: {last.message if last else ''}",
            backend="llamacpp",
            log_tail=life.tail.lines(),
            hint=last.hint if last and last.hint else "Reset the model to try again.",
        )


def _own_copy(error: _E) -> _E:
    """For one caller: a shared error would collect the tracebacks of all."""
    return copy.copy(error)
