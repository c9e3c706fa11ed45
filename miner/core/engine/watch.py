"""Watches a running child for its supervisor: pipes, progress, exit."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Sequence

from miner.core.engine.logtail import LogTail
from miner.core.engine.own_output import OURS, OwnOutput
from miner.core.engine.procstat import LOOK_SECONDS, Usage, process_usage, start_time
from miner.core.engine.ready_check import CHECK_LINES
from miner.core.engine.run_marker import kill_marked

STOP_SIGNAL = signal.SIGUSR1
"""Stops a child gracefully. Not SIGTERM: a service manager sends that to all processes of a service."""
UNKILLABLE = 5.0
"""Seconds after SIGKILL until a process that hangs in a device driver is left to the kernel."""
_DRAIN = 1.0  # seconds for the final output: a grandchild that holds the pipe could delay its end forever
_POLL = 0.2  # seconds between two looks at the child where the system has no pidfd
_STEP = 1 << 20  # bytes of memory that count as a step of a load


class StallDetector:
    """Detects that a starting child makes no progress: it does not print, compute, or take or free memory.

    A little computing does not count: a child that hangs may still check its parent twice a second.

    Args:
        starts_server: the child starts the server as a process of its own. It asks that whether it is ready, and looks
            at its ports: on a slow machine that is more than a little, so only its descendants count.
    """

    def __init__(self, timeout: float, *, starts_server: bool = False) -> None:
        self._starts_server = starts_server
        self._cpu_step = timeout / 100
        self.pause = min(1.0, timeout / 10)
        self.last = time.monotonic()
        self._mark = (Usage(0.0, 0), 0)

    def look(self, now: float, used: Usage | None, printed: int) -> None:
        """Set `last` to now if there was progress since."""
        before, printed_before = self._mark
        if used is None:
            used = before
        elif self._starts_server:
            used = used.of_descendants()
        moved = abs(used.resident - before.resident) >= _STEP or used.cpu - before.cpu >= self._cpu_step
        if moved or printed != printed_before:
            self.last = now
            self._mark = (used, printed)


class SuspendDetector:
    """Detects that a child is suspended (SIGSTOP, a debugger). A sampling tracer suspends it only briefly."""

    _LONG = min(0.4, LOOK_SECONDS)
    _PAUSE = 0.1

    def __init__(self) -> None:
        self._since: float | None = None

    def look(self, now: float, used: Usage | None) -> bool:
        """Return whether it was suspended in all samples for long enough."""
        if used is None or not used.stopped:
            self._since = None
            return False
        if self._since is None:
            self._since = now
        return now - self._since >= self._LONG

    @property
    def pause(self) -> float:
        """Seconds until the next sample."""
        return LOOK_SECONDS if self._since is None else min(self._PAUSE, LOOK_SECONDS)


class Watch:
    """The pipes and the exit of a running child."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        stdin: bytes,
        wake: int,
        tail: LogTail,
        on_json: Callable[[bytes], None],
        *,
        checks: Sequence[str] = (),
    ) -> None:
        """Args:
        checks: paths that the child asks the server for until that is ready. In the log the first line that names such
            a request stands for all.
        """
        self.process = process
        self.output = OwnOutput(checks)
        """What it prints until it is ready, without what our checks cause."""
        self.starting = True
        """Until it is ready."""
        self._logged_check = False
        self._unsent = stdin
        self._tail = tail
        self._on_json = on_json
        self._line = b""
        self._selector = selectors.DefaultSelector()
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._pipes = {process.stdout.fileno(): "stdout", process.stderr.fileno(): "stderr"}
        for pipe in self._pipes:
            os.set_blocking(pipe, False)
            self._selector.register(pipe, selectors.EVENT_READ)
        self._stdin = process.stdin.fileno()
        os.set_blocking(self._stdin, False)
        if stdin:
            self._selector.register(self._stdin, selectors.EVENT_WRITE)
        self._wake = wake
        self._selector.register(wake, selectors.EVENT_READ)
        self._pidfd = _pidfd(process.pid)
        if self._pidfd is not None:
            self._selector.register(self._pidfd, selectors.EVENT_READ)

    def wait(self, pause: float) -> bool:
        """Read and write for `pause` seconds at most; return whether the child has exited."""
        if self._pidfd is None:
            pause = min(pause, _POLL)
        exited = False
        # What the child says of its checks comes before what the server prints of them.
        for key, _ in sorted(self._selector.select(pause), key=lambda found: self._pipes.get(found[0].fd) != "stdout"):
            if key.fd in self._pipes:
                self._read(key.fd)
            elif key.fd == self._stdin:
                self._write()
            elif key.fd == self._wake:
                os.read(self._wake, 4096)
            else:
                exited = True
        self.output.settle(time.monotonic())
        return exited if self._pidfd is not None else self.process.poll() is not None

    def reap(self, last: Usage | None = None, marker: str | None = None) -> int | None:
        """Kill the rest of the process group, read the final output, and return the exit status.

        Args:
            last: a sample of its resources: its descendants by then are killed, too.
            marker: that of its run: whatever has it is killed, too, if the child could not do that itself.
        """
        in_order = _ended_in_order(self.process.pid)
        kill_tree(self.process.pid, last)  # before the wait: until then the pid cannot be reused
        if marker is not None and not in_order:
            kill_marked(marker)
        try:
            status = self.process.wait(UNKILLABLE)
        except subprocess.TimeoutExpired:
            status = None
            self._tail.feed(b"miner: the process survived SIGKILL\n")
        deadline = time.monotonic() + _DRAIN
        if self._pidfd is not None:
            self._selector.unregister(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None
        while self._pipes and (left := deadline - time.monotonic()) > 0:
            self.wait(left)
        _reap_group(self.process.pid)
        self._selector.close()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
        self._tail.close()
        return status

    def _read(self, pipe: int) -> None:
        try:
            data = os.read(pipe, 1 << 16)
        except BlockingIOError:
            return
        if not data:
            self._selector.unregister(pipe)
            del self._pipes[pipe]
            return
        if self._pipes[pipe] == "stderr":
            if self.starting:
                self.output.feed(data, time.monotonic())
                data = self._without_checks(data)
            self._tail.feed(data)
            return
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            if line in CHECK_LINES:
                self._on_check(line)
            elif line.startswith(b"{"):
                self._on_json(line)
            else:
                self._tail.feed(line + b"\n", "stdout")
        if len(self._line) > 1 << 16:  # no line of ours is that long
            self._tail.feed(self._line, "stdout")
            self._line = b""

    def _on_check(self, line: bytes) -> None:
        if self.starting and line == CHECK_LINES[0]:
            self.output.check_began(time.monotonic())
        elif self.starting:
            self.output.check_ended(time.monotonic(), reached=line == CHECK_LINES[1])

    def _without_checks(self, data: bytes) -> bytes:
        """What is to be logged."""
        logged = []
        for line in re.split(rb"(?<=[\r\n])", data):
            if not line.startswith(OURS) and self.output.is_of_check(line):
                if self._logged_check:
                    continue
                self._logged_check = True
            logged.append(line)
        return b"".join(logged)

    def _write(self) -> None:
        try:
            self._unsent = self._unsent[os.write(self._stdin, self._unsent) :]
        except BlockingIOError:
            return
        except OSError:  # it has exited, or closed its end: its output and exit status have the reason
            self._unsent = b""
        if not self._unsent:
            self._selector.unregister(self._stdin)


def signal_group(pid: int, number: int) -> None:
    """Send a signal to a process group, if it exists."""
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):  # exited; macOS raises EPERM for a zombie
        pass


def kill_tree(pid: int, last: Usage | None) -> None:
    """SIGKILL to a process group, and to its leader's descendants in other groups.

    Args:
        last: the last sample: the leader may have exited, so that its descendants are not found any more.
    """
    now = process_usage(pid)
    known = (last.processes if last is not None else frozenset()) | (now.processes if now is not None else frozenset())
    signal_group(pid, signal.SIGKILL)
    for each, started in known:
        if each != pid and start_time(each) == started:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(each, signal.SIGKILL)


def _reap_group(pid: int) -> None:
    """Reap the child's descendants where this is a container's first process, which inherits orphans."""
    deadline = time.monotonic() + _DRAIN
    try:
        while time.monotonic() < deadline:
            if os.waitpid(-pid, os.WNOHANG) == (0, 0):
                time.sleep(0.01)
    except ChildProcessError:
        pass


def _ended_in_order(pid: int) -> bool:
    """Whether a child has exited by itself, not by a signal; it stays to be waited for."""
    try:
        found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except (AttributeError, OSError):  # no Linux
        return False
    return found is not None and found.si_code == os.CLD_EXITED


def _pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None
