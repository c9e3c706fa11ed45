"""The part of `child.py` that runs a user's own server. Imported by that script only; imports nothing of miner.

The command gets a process group with this process, no terminal, and nothing on its standard input. This process adopts
what the command leaves in the background (Linux), so that all its descendants can be found and killed, in whatever
process group or session they are: when the command exits, when it is stopped, and when our parent is killed.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

ready_check: Any = importlib.import_module("ready_check")  # beside this script
Config = dict[str, Any]

STOP_SIGNAL = signal.SIGUSR1
PARENT_EXIT = signal.SIGUSR2
"""The kernel sends it to this process when the parent exits."""

_POLL = 0.5  # seconds
_PROBE_TIMEOUT = 5.0
_READY_TIMEOUT = 24 * 3600.0  # the parent gives up long before
_LOOK_AT_PORTS = 2.0
_CLOSED_FOR = 3.0
"""Seconds after which a server that accepts no connections any more counts as one that has exited."""
_KILL_ROUNDS = 200
_HOSTS = ("127.0.0.1", "[::1]")
_MAY_BE_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def prepare(remove_directory: Callable[[], None]) -> None:
    """Adopt orphans, and kill everything when the parent exits."""

    def parent_exited(*_: Any) -> NoReturn:
        kill_descendants(os.getpid())
        remove_directory()
        os._exit(1)

    signal.signal(PARENT_EXIT, parent_exited)
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def kill_descendants(root: int) -> None:
    """Kill all descendants of a process, this process excepted."""
    for _ in range(_KILL_ROUNDS):  # one that forks while we look is found in the next round
        found = [pid for pid in _descendants(root) if pid != os.getpid()]
        if not found:
            return
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)


def serve(
    config: Config,
    report_ready: Callable[[str], None],
    tell: Callable[[str], None],
    fail: Callable[[str], NoReturn],
) -> int:
    """Run the command of `config` until it exits or STOP_SIGNAL comes; return the exit status.

    Args:
        tell: called at the begin and the end of each ready check.
    """
    port = config["port"] or _free_port()
    if config["port"] and _in_use(port):
        fail(f"port {port} is in use by another process")
    argv = [word.replace("${PORT}", str(port)) for word in config["command"]]
    env = {name: value.replace("${PORT}", str(port)) for name, value in config["env"].items()}
    parent = os.getppid()
    try:
        server = subprocess.Popen(
            argv, env=env, cwd=config["cwd"], stdin=subprocess.DEVNULL, preexec_fn=_before_exec(config["stop_signal"])
        )
    except OSError as error:
        fail(f"{argv[0]} cannot be run: {error.strerror}")
    stop = threading.Event()

    def on_stop(*_: Any) -> None:
        stop.set()
        server.send_signal(config["stop_signal"])

    signal.signal(STOP_SIGNAL, on_stop)
    try:
        address = _Ready(server, port, config, tell).wait()
        if address is not None:
            report_ready(address)
        status = _wait_for_exit(server, port, stop, parent)
    finally:
        kill_descendants(os.getpid())
    if stop.is_set():
        return 0
    if status < 0:  # exit by the same signal, for the parent to see
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


def _before_exec(stop_signal: int) -> Callable[[], None]:
    """What runs between fork and exec.

    SIGTERM and SIGHUP are for our parent when they are sent to a whole service. They are blocked, because the program
    sets handlers but keeps the mask; not the one that stops the command.
    """

    def prepare_command() -> None:
        if sys.platform == "linux":
            import ctypes

            ctypes.CDLL(None).prctl(1, int(signal.SIGKILL), 0, 0, 0)  # PR_SET_PDEATHSIG
        for number in _MAY_BE_IGNORED:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP} - {stop_signal})

    return prepare_command


class _Ready:
    """Waits until the ready check returns 200, and logs what it returns meanwhile."""

    def __init__(self, server: subprocess.Popen[bytes], port: int, config: Config, tell: Callable[[str], None]) -> None:
        self._server = server
        self._tell = tell
        self._port = port
        self._paths = [path.replace("${PORT}", str(port)) for path in config["ready"]]
        self._key: str | None = config["api_key"]
        self._said: set[str] = set()
        """What was logged: each line once, or two checks that differ would alternate for ever, which looks busy."""
        self._looked = time.monotonic()

    def wait(self) -> str | None:
        """The address; None if the command exited first."""
        began, pause = time.monotonic(), ready_check.FIRST_PAUSE
        while self._server.poll() is None and (asked := time.monotonic()) < began + _READY_TIMEOUT:
            for host in _HOSTS:
                if self._is_ready(host):
                    return f"http://{host}:{self._port}"
            took = time.monotonic() - asked
            self._look_at_ports()
            _reap_orphans(self._server.pid)
            time.sleep(pause)
            pause = ready_check.next_pause(pause, time.monotonic() - began, took)
        return None

    def _is_ready(self, host: str) -> bool:
        for path in self._paths:
            status = self._get(host, path)
            if status == 200:
                return True
            if status == ready_check.NO_RESPONSE:
                self._say(f"its ready check, {path} on port {self._port}, got no response")
            elif status is not None:
                self._say(f"its ready check, {path} on port {self._port}, returned {status}")
            if status != 404:
                return False
        return False

    def _get(self, host: str, path: str) -> int | None:
        connection = http.client.HTTPConnection(f"{host}:{self._port}", timeout=_PROBE_TIMEOUT)
        status: int | None = ready_check.status_of(connection, path, self._key, self._tell)
        return status

    def _look_at_ports(self) -> None:
        now = time.monotonic()
        if now < self._looked + _LOOK_AT_PORTS:
            return
        self._looked = now
        ports = _listening_ports([self._server.pid, *_descendants(self._server.pid)])
        if ports and self._port not in ports:
            names = ", ".join(map(str, sorted(ports)))
            self._say(f"it listens on port {names}, not on {self._port}")

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            _log(text)


def _log(text: str) -> None:
    sys.stderr.write(f"\nminer: {text}\n")  # the server may have begun a line
    sys.stderr.flush()


def _wait_for_exit(server: subprocess.Popen[bytes], port: int, stop: threading.Event, parent: int) -> int:
    """Wait for the exit. A server that accepts no connections any more, without STOP_SIGNAL, is shutting down: it is
    killed, and counts as one that exited by itself.
    """
    closed_since: float | None = None
    while True:
        try:
            return server.wait(_POLL)
        except subprocess.TimeoutExpired:
            pass
        _reap_orphans(server.pid)
        if os.getppid() != parent:
            os.kill(os.getpid(), PARENT_EXIT)
        if stop.is_set() or not _is_closed(port):
            closed_since = None
        elif closed_since is None:
            closed_since = time.monotonic()
        elif time.monotonic() >= closed_since + _CLOSED_FOR and not stop.is_set():
            _log("it accepts no connections any more, and is killed")
            server.kill()
            server.wait()
            return 0


def _is_closed(port: int) -> bool:
    for host, family in (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)):
        try:
            with socket.socket(family) as probe:
                probe.settimeout(_PROBE_TIMEOUT)
                probe.connect((host, port))
                return False
        except ConnectionRefusedError:
            pass
        except OSError:  # busy, or there is no such family
            if family == socket.AF_INET:
                return False
    return True


def _reap_orphans(server: int) -> None:
    """Reap what has exited, but not the server."""
    with contextlib.suppress(ChildProcessError, AttributeError):
        while True:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if found is None or found.si_pid == server:
                return
            os.waitpid(found.si_pid, 0)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOSTS[0], 0))
        port: int = probe.getsockname()[1]
        return port


def _in_use(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of an earlier run do not count
        try:
            probe.bind((_HOSTS[0], port))
        except OSError:
            return True
    return False


def _descendants(root: int) -> list[int]:
    """Processes below `root` that run; none where there is no /proc."""
    children: dict[int, list[int]] = {}
    ended: set[int] = set()
    with contextlib.suppress(OSError):
        for entry in os.scandir("/proc"):
            if entry.name.isdecimal():
                # The second field, the program's name in parentheses, may contain anything.
                with contextlib.suppress(OSError, ValueError, IndexError):
                    fields = Path(entry.path, "stat").read_bytes().rpartition(b")")[2].split()
                    children.setdefault(int(fields[1]), []).append(int(entry.name))
                    if fields[0] in (b"Z", b"X"):
                        ended.add(int(entry.name))
    found, waiting = list[int](), [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return [pid for pid in found if pid not in ended]


def _listening_ports(pids: list[int]) -> set[int]:
    """TCP ports on which these processes accept connections."""
    sockets: dict[str, int] = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A":
                    sockets[f"socket:[{fields[9]}]"] = int(fields[1].rpartition(":")[2], 16)
    found = set[int]()
    for pid in pids:
        with contextlib.suppress(OSError):
            for entry in os.scandir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    name = os.readlink(entry.path)
                    if name in sockets:
                        found.add(sockets[name])
    return found
