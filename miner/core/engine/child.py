"""The main program of an engine's process. Run as a script, never imported by miner; imports nothing of miner.

Reads its configuration as one line of JSON from standard input, starts a llama.cpp server or a user's command, prints
one line of JSON to standard output when it is ready, and runs until STOP_SIGNAL or until its parent exits. All other
output goes to standard error.

SIGTERM is ignored: when it is sent to a whole service (systemd, `pkill`), it is meant for the parent, which lets its
requests finish and then stops this process; a llama.cpp server would stop listening and wait for its requests.

When the parent exits, the kernel kills this process and its children (Linux, PDEATHSIG). For the socket's directory,
and for systems and wrappers without such a signal, a fork of this process watches the parent, in the same process
group. If that is suspended (SIGSTOP), the exit of this process wakes it.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

Config = dict[str, Any]

STOP_SIGNAL = signal.SIGUSR1
"""How the parent stops this process gracefully; `watch.py` has the same constant."""

_IGNORED_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_POLL_INTERVAL = 0.5  # seconds
_PROBE_TIMEOUT = 5.0
_HELP_TIMEOUT = 60.0
_READY_TIMEOUT = 24 * 3600.0  # the parent gives up long before


def main() -> int:
    """Run the server; return the exit status."""
    _ignore_foreign_signals()
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # ggml and chat templates print to standard output, which would garble the ready line
    config = _read_config()
    sys.path[:0] = [entry for entry in config["path"] if entry not in sys.path]
    if config["mode"] == "command":
        command = _sibling("command_child")
        command.prepare(lambda: _remove_directory(config))
        _on_parent_death(command.PARENT_EXIT)
    else:
        _on_parent_death(signal.SIGKILL)
    if os.getppid() != config["parent"]:
        return 1
    _limit_memory(engine=config["mode"] != "command")
    _start_watcher(config, output)
    try:
        return _SERVERS[config["mode"]](config, output)
    except ImportError as error:
        _fail(f"a Python package is missing or broken: {error}")
    finally:
        _remove_directory(config)


def _ignore_foreign_signals() -> None:
    for number in _IGNORED_SIGNALS:  # Ctrl-C too is for the parent
        signal.signal(number, signal.SIG_IGN)


def _read_config() -> Config:
    data = b""
    while not data.endswith(b"\n"):
        piece = os.read(0, 1 << 16)
        if not piece:
            _fail("the configuration is missing")
        data += piece
    config: Config = json.loads(data)
    return config


def _fail(reason: str) -> NoReturn:
    print(f"miner-child: {reason}", file=sys.stderr, flush=True)
    sys.exit(1)


def _remove_directory(config: Config) -> None:
    """Remove the socket's directory, in case the parent was killed."""
    for name in ("engine.sock", "template.jinja", "key"):
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(config["directory"], name))
    with contextlib.suppress(OSError):  # the parent was first
        os.rmdir(config["directory"])


def _limit_memory(*, engine: bool) -> None:
    """Let an engine of ours that is too large fail by itself, before other processes suffer; no core dumps."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    memory = _total_memory() if engine else None
    if memory:
        # Beyond the machine's memory, let the allocation fail, with its size in the log, before the OOM killer picks a
        # victim. (Mapped model files and reserved addresses do not count here.)
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        limit = memory if hard == resource.RLIM_INFINITY else min(memory, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    try:
        with open("/proc/self/oom_score_adj") as file:
            score = int(file.read())
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write(str(max(score, 500)))  # the OOM killer should prefer engines: they are restarted
    except (OSError, ValueError):
        pass


def _total_memory() -> int | None:
    """Bytes of memory and swap that this process can get; None if unknown."""
    try:
        with open("/proc/meminfo") as file:
            rows = dict(line.split(":", 1) for line in file)
        total = sum(int(rows[name].split()[0]) * 1024 for name in ("MemTotal", "SwapTotal"))
    except (OSError, KeyError, ValueError):
        return None
    try:
        with open("/sys/fs/cgroup/memory.max") as file:
            return min(total, int(file.read()))
    except (OSError, ValueError):
        return total


def _on_parent_death(number: int) -> None:
    """Let the kernel send a signal when the thread that started this process ends (Linux).

    Safe, because the parent starts this process from the thread that supervises it until its exit.
    """
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, int(number), 0, 0, 0)


def _before_exec() -> None:
    """Runs between fork and exec of a llama-server. Its parent is our main thread, which runs as long as this process.

    SIGTERM and SIGHUP are blocked, not only ignored: the program sets handlers, but keeps the mask.
    """
    _on_parent_death(signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP})
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # how it is stopped


def _start_watcher(config: Config, output: Any) -> None:
    """Fork a process that kills this process group, and removes its directory, when the parent exits."""
    leader = os.getpid()
    # Now: when the parent has exited, the files of its installation may be gone.
    siblings = (_sibling("command_child"), _sibling("run_marker")) if config["mode"] == "command" else None
    if os.fork():
        return
    try:
        for pipe in (1, 2, output.fileno()):
            os.close(pipe)
        _on_parent_death(signal.SIGCONT)
        if _parent_exits_first(config["parent"], leader):
            try:
                _remove_directory(config)
                if siblings is not None:
                    command, run_marker = siblings
                    command.kill_descendants(leader)
                    if os.getppid() != leader:  # then it adopts no orphans any more
                        run_marker.kill_marked(config["marker"])
            finally:
                os.killpg(leader, signal.SIGKILL)
    finally:
        os._exit(0)


def _parent_exits_first(parent: int, leader: int) -> bool:
    """Wait until the parent or the server exits; True: the parent."""
    poller = select.poll()
    poller.register(0, select.POLLIN | select.POLLHUP)
    handle = None
    try:
        handle = os.pidfd_open(parent)
        poller.register(handle, select.POLLIN)
    except ProcessLookupError:
        return True
    except (AttributeError, OSError):  # not Linux, or an old kernel
        pass
    while os.getppid() == leader:
        for descriptor, _ in poller.poll(_POLL_INTERVAL * 1000):
            if descriptor == handle or not os.read(0, 4096):
                return True
        if handle is None and not _exists(parent):
            return True
    # The server was first. It may have been killed because the parent is exiting, whose end of our standard input
    # closes shortly before it has exited.
    return bool(poller.poll(1000)) or not _exists(parent)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _is_healthy(address: str, key: str, output: Any) -> bool:
    """Whether `/health` returns 200: the model is loaded."""
    if address.startswith("unix://"):
        connection = http.client.HTTPConnection("engine", timeout=_PROBE_TIMEOUT)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(_PROBE_TIMEOUT)
    else:
        connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=_PROBE_TIMEOUT)
    try:
        if connection.sock is not None:
            connection.sock.connect(address.removeprefix("unix://"))
    except OSError:
        connection.close()
        return False
    return bool(_sibling("ready_check").status_of(connection, "/health", key, _teller(output)) == 200)


def _report_ready(output: Any, address: str) -> None:
    """Print the line that the parent waits for."""
    print(json.dumps({"ready": True, "address": address}), file=output, flush=True)


def _teller(output: Any) -> Callable[[str], None]:
    """Tells the parent of each ready check."""
    return lambda state: print(json.dumps({"check": state}), file=output, flush=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _serve_xllamacpp(config: Config, output: Any) -> int:
    import xllamacpp

    parameters = _parameters(xllamacpp, config)
    try:
        server = xllamacpp.Server(parameters)
    except (RuntimeError, ValueError, OverflowError) as error:
        print(error, file=sys.stderr, flush=True)  # llama.cpp has logged the reason
        return 1
    stop = threading.Event()
    signal.signal(STOP_SIGNAL, lambda *_: stop.set())
    _ignore_foreign_signals()  # the server may have set handlers
    _report_ready(output, server.listening_address)
    stop.wait()
    del server
    return 0


def _parameters(xllamacpp: Any, config: Config) -> Any:
    try:
        return _sibling("common_params").parameters_of(xllamacpp, config)
    except ValueError as error:
        _fail(f"xllamacpp {xllamacpp.__version__} {error}")


def _serve_binary(config: Config, output: Any) -> int:
    address, command = _command(config)
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_before_exec)
    stop = threading.Event()

    def on_stop(*_: Any) -> None:
        stop.set()
        server.send_signal(signal.SIGINT)

    signal.signal(STOP_SIGNAL, on_stop)
    if _await_health(address, config, server, output):
        _report_ready(output, address)
    status = _wait_for_exit(server, address, stop)
    if stop.is_set():
        return 0
    if status < 0:  # exit by the same signal, for the parent to see
        _remove_directory(config)
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


def _wait_for_exit(server: subprocess.Popen[bytes], address: str, stop: threading.Event) -> int:
    """Wait for the exit. A server that accepts no connections any more, without STOP_SIGNAL, is shutting down: it is
    killed, and counts as one that exited by itself.
    """
    while True:
        try:
            return server.wait(_POLL_INTERVAL)
        except subprocess.TimeoutExpired:
            if not stop.is_set() and _refuses(address) and not stop.is_set():
                server.kill()
                server.wait()
                return 0


def _refuses(address: str) -> bool:
    at_socket = address.startswith("unix://")
    with socket.socket(socket.AF_UNIX if at_socket else socket.AF_INET) as probe:
        probe.settimeout(_PROBE_TIMEOUT)
        host, _, port = address.removeprefix("http://").partition(":")
        try:
            probe.connect(address.removeprefix("unix://") if at_socket else (host, int(port)))
        except (ConnectionRefusedError, FileNotFoundError):
            return True
        except OSError:  # busy
            pass
    return False


def _await_health(address: str, config: Config, server: subprocess.Popen[bytes], output: Any) -> bool:
    check = _sibling("ready_check")
    began, pause = time.monotonic(), check.FIRST_PAUSE
    while server.poll() is None and (asked := time.monotonic()) < began + _READY_TIMEOUT:
        if _is_healthy(address, config["api_key"], output):
            return True
        took = time.monotonic() - asked
        time.sleep(pause)
        pause = check.next_pause(pause, time.monotonic() - began, took)
    return False


def _command(config: Config) -> tuple[str, list[str]]:
    """The address of the server and its command line, in options that this version supports."""
    binary = config["binary"]
    try:
        output = subprocess.run(
            [binary, "--help"], stdin=subprocess.DEVNULL, capture_output=True, timeout=_HELP_TIMEOUT, check=False,
            preexec_fn=_before_exec,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        _fail(f"{binary} --help failed: {error}")
    help_text = (output.stdout + output.stderr).decode("utf-8", "replace")
    if "--model" not in help_text:
        sys.stderr.write(help_text[-4000:] + "\n")
        _fail(f"{binary} is not a llama-server: its --help does not list --model")
    command = [binary, *config["flags"]]
    if config["socket"] and "unix socket" in help_text.lower():
        address = f"unix://{config['socket']}"
        command += ["--host", config["socket"]]
    else:
        port = _free_port()
        address = f"http://127.0.0.1:{port}"
        key_file = _write(config, "key", config["api_key"] + "\n")
        command += ["--host", "127.0.0.1", "--port", str(port), "--api-key-file", key_file]
    try:
        command += _sibling("server_help").words_of(config, help_text)
    except ValueError as error:
        _fail(f"{binary}: {error}")
    if config["chat_template"]:
        command += ["--chat-template-file", _write(config, "template.jinja", config["chat_template"])]
    return address, command


def _write(config: Config, name: str, text: str) -> str:
    path = os.path.join(config["directory"], name)
    with open(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    return path


def _sibling(name: str) -> Any:
    """A module beside this script."""
    directory = os.path.dirname(os.path.abspath(__file__))
    if directory not in sys.path:
        sys.path.insert(0, directory)
    return importlib.import_module(name)


def _serve_command(config: Config, output: Any) -> int:
    command, tell = _sibling("command_child"), _teller(output)
    return int(command.serve(config, lambda address: _report_ready(output, address), tell, _fail))


def _serve_llama_cpp(config: Config, output: Any) -> int:
    import llama_cpp

    bindings = _sibling("bindings_server")
    values = dict(config["values"])
    for path, name in config["constants"].items():
        values[path] = getattr(llama_cpp, name, None)
        if values[path] is None:
            _fail(f"llama-cpp-python {llama_cpp.__version__} has no {name}: choose another {path}")
    at_socket, key = config["socket"], config["api_key"]
    try:
        llama = llama_cpp.Llama(**values)
    except (RuntimeError, ValueError, AssertionError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    llama.verbose = False  # needed for the reason of a failed load; now it would print for each request
    app = bindings.BindingsServer(
        llama_cpp, llama, alias=config["alias"], template=config["chat_template"], key=None if at_socket else key
    )
    bindings.serve(app, at_socket, STOP_SIGNAL, lambda address: _report_ready(output, address))
    return 0


_SERVERS = {
    "xllamacpp": _serve_xllamacpp,
    "binary": _serve_binary,
    "llama_cpp": _serve_llama_cpp,
    "command": _serve_command,
}

if __name__ == "__main__":
    sys.exit(main())
