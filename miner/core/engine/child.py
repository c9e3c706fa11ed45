"""The program inside an engine's process. Run as a script, never imported by miner; imports nothing of miner.

Takes its orders as one line of JSON on standard input, starts a llama.cpp server, prints one line of JSON on
standard output when it answers, and lives until it is told to stop (STOP_SIGNAL) or its parent is gone. Everything
else that is printed goes to standard error.

SIGTERM is not for it. Who sends one to a whole service (systemd, `pkill`) means the parent, which lets its requests
finish and then stops this; a llama.cpp server that took it would stop listening and wait for its requests.

When the parent dies, the kernel kills this process and what it has started (Linux). That leaves the private directory,
and the systems and programs in between that know no such signal: for them a fork of this process watches, in the same
group. Stopped (SIGSTOP), it is woken by the death of this process. It has nothing else to do, so it never hangs.
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
from typing import Any, NoReturn

Orders = dict[str, Any]

STOP_SIGNAL = signal.SIGUSR1
"""How the parent stops this process, in order; it knows the number by itself."""

_NOT_FOR_US = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LOOK_EVERY = 0.5  # seconds between two looks at the parent
_PROBE_TIMEOUT = 5.0
_HELP_TIMEOUT = 60.0
_READY_TIMEOUT = 24 * 3600.0  # the parent gives up long before; a bound all the same


def main() -> int:
    """Serve as ordered; the result is the exit status."""
    _ignore_foreign_signals()
    say = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # ggml and user-made templates print to standard output: it would garble the ready line
    orders = _read_orders()
    sys.path[:0] = [entry for entry in orders["path"] if entry not in sys.path]
    _on_parent_death(signal.SIGKILL)
    if os.getppid() != orders["parent"]:
        return 1
    _limit_harm()
    _start_watcher(orders, say)
    try:
        return _SERVERS[orders["mode"]](orders, say)
    except ImportError as error:
        _fail(f"a Python package is missing or broken: {error}")
    finally:
        _clean(orders)


def _ignore_foreign_signals() -> None:
    for number in _NOT_FOR_US:  # Ctrl-C too is for the parent
        signal.signal(number, signal.SIG_IGN)


def _read_orders() -> Orders:
    data = b""
    while not data.endswith(b"\n"):
        piece = os.read(0, 1 << 16)
        if not piece:
            _fail("no orders came")
        data += piece
    orders: Orders = json.loads(data)
    return orders


def _fail(reason: str) -> NoReturn:
    print(f"miner-child: {reason}", file=sys.stderr, flush=True)
    sys.exit(1)


def _clean(orders: Orders) -> None:
    """Remove the directory of the socket, which nobody else will do when the parent was killed."""
    for name in ("engine.sock", "template.jinja", "key"):
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(orders["directory"], name))
    with contextlib.suppress(OSError):  # the parent was quicker
        os.rmdir(orders["directory"])


def _limit_harm() -> None:
    """Make an engine that is too large fail by itself, before anything else on the machine suffers."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    memory = _memory_of_machine()
    if memory:
        # More private memory than the machine has cannot end well: let the allocation fail, with its size in the log,
        # rather than the kernel pick a victim. (Mapped model files and reserved addresses do not count here.)
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        limit = memory if hard == resource.RLIM_INFINITY else min(memory, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    try:
        with open("/proc/self/oom_score_adj") as file:
            score = int(file.read())
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write(str(max(score, 500)))  # if the kernel must end something: an engine is started again
    except (OSError, ValueError):
        pass


def _memory_of_machine() -> int | None:
    """Bytes of memory and swap that this process could ever get; None where nobody tells."""
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
    """Let the kernel send this signal when the thread that started us ends (Linux).

    It is safe: the parent starts us from the thread that supervises us and lives as long as we do.
    """
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, int(number), 0, 0, 0)


def _die_with_us() -> None:
    """Between fork and exec of somebody else's program. Its parent is our main thread, which lives as long as we do.

    What it handles by itself is blocked and not only ignored: it sets handlers, and keeps the mask.
    """
    _on_parent_death(signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP})
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # how we end it


def _start_watcher(orders: Orders, say: Any) -> None:
    """Fork a process that ends this whole process group, and removes its directory, as soon as the parent is gone."""
    leader = os.getpid()
    if os.fork():
        return
    try:
        for pipe in (1, 2, say.fileno()):
            os.close(pipe)
        _on_parent_death(signal.SIGCONT)
        if _outlived(orders["parent"], leader):
            _clean(orders)
            os.killpg(leader, signal.SIGKILL)
    finally:
        os._exit(0)


def _outlived(parent: int, leader: int) -> bool:
    """Wait for the end of the parent or of the server; True: the parent's."""
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
        for descriptor, _ in poller.poll(_LOOK_EVERY * 1000):
            if descriptor == handle or not os.read(0, 4096):
                return True
        if handle is None and not _exists(parent):
            return True
    # The server was quicker. It may have been killed because of the parent's death, which is not over then.
    # Its end of our standard input closes a moment before it is gone.
    return bool(poller.poll(1000)) or not _exists(parent)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _ask(address: str, path: str, key: str) -> tuple[int, Any] | None:
    """Status and JSON of a GET, None when nothing answers in that form."""
    if address.startswith("unix://"):
        connection = http.client.HTTPConnection("engine", timeout=_PROBE_TIMEOUT)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(_PROBE_TIMEOUT)
    else:
        connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=_PROBE_TIMEOUT)
    try:
        if connection.sock is not None:
            connection.sock.connect(address.removeprefix("unix://"))
        connection.request("GET", path, headers={"Authorization": f"Bearer {key}"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    except (OSError, ValueError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _report(say: Any, address: str, key: str, build: str) -> None:
    """Print the ready line, with what the server says of itself."""
    asked = _ask(address, "/props", key)
    props = asked[1] if asked and asked[0] == 200 else {}
    line = {
        "ready": True,
        "address": address,
        "build": build or props.get("build_info"),
        "n_ctx": props.get("default_generation_settings", {}).get("n_ctx"),
        "slots": props.get("total_slots"),
    }
    print(json.dumps(line), file=say, flush=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _serve_xllamacpp(orders: Orders, say: Any) -> int:
    import xllamacpp

    parameters = _parameters(xllamacpp, orders)
    try:
        server = xllamacpp.Server(parameters)
    except (RuntimeError, ValueError, OverflowError) as error:
        print(error, file=sys.stderr, flush=True)  # llama.cpp has said why, on the lines before
        return 1
    stop = threading.Event()
    signal.signal(STOP_SIGNAL, lambda *_: stop.set())
    _ignore_foreign_signals()  # whatever it has set
    _report(say, server.listening_address, orders["api_key"], f"xllamacpp {xllamacpp.__version__}")
    stop.wait()
    del server
    return 0


def _parameters(xllamacpp: Any, orders: Orders) -> Any:
    values = dict(orders["values"])
    # With processors only there is nothing to fit to, and fitting reads the model's header twice.
    values["fit_params"] = any("CPU" not in repr(device["type"]) for device in xllamacpp.get_device_info())
    if orders["socket"]:
        values["hostnames"] = [orders["socket"]]
    else:
        values |= {"hostnames": ["127.0.0.1"], "port": 0, "api_keys": [orders["api_key"]]}
    for path, (family, name) in orders["constants"].items():
        values[path] = getattr(getattr(xllamacpp, family, None), name, None)
        if values[path] is None:
            _fail(f"xllamacpp {xllamacpp.__version__} has no {family}.{name}: choose another {path}")
    parameters = xllamacpp.CommonParams()
    for path, value in values.items():
        *parents, name = path.split(".")
        target = parameters
        for parent in parents:
            target = getattr(target, parent)
        if not hasattr(target, name):
            _fail(f"xllamacpp {xllamacpp.__version__} has no parameter {path}: install the version that miner asks for")
        try:
            setattr(target, name, value)
        except (TypeError, ValueError, OverflowError) as error:
            _fail(f"xllamacpp {xllamacpp.__version__} does not take {path}={value!r}: {error}")
    return parameters


def _serve_binary(orders: Orders, say: Any) -> int:
    address, command = _command(orders)
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_die_with_us)
    stop = threading.Event()

    def end(*_: Any) -> None:
        stop.set()
        server.send_signal(signal.SIGINT)

    signal.signal(STOP_SIGNAL, end)
    if _await_health(address, orders, server):
        _report(say, address, orders["api_key"], "")
    status = _end_of(server, address, stop)
    if stop.is_set():
        return 0
    if status < 0:  # die as it died, so that whoever looks sees the same signal
        _clean(orders)
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


def _end_of(server: subprocess.Popen[bytes], address: str, stop: threading.Event) -> int:
    """Wait for it. One that takes no connections any more, unasked, is on its way out and serves nobody: it is killed,
    and counts as one that ended by itself.
    """
    while True:
        try:
            return server.wait(_LOOK_EVERY)
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
        except OSError:  # busy, which is another matter
            pass
    return False


def _await_health(address: str, orders: Orders, server: subprocess.Popen[bytes]) -> bool:
    deadline, pause = time.monotonic() + _READY_TIMEOUT, 0.02
    while server.poll() is None and time.monotonic() < deadline:
        answer = _ask(address, "/health", orders["api_key"])
        if answer and answer[0] == 200:
            return True
        time.sleep(pause)
        pause = min(pause * 1.5, 0.25)
    return False


def _command(orders: Orders) -> tuple[str, list[str]]:
    """Where the binary will answer, and its command line, in the words that this version of it understands."""
    binary = orders["binary"]
    try:
        told = subprocess.run(
            [binary, "--help"], stdin=subprocess.DEVNULL, capture_output=True, timeout=_HELP_TIMEOUT, check=False,
            preexec_fn=_die_with_us,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        _fail(f"{binary} --help does not answer: {error}")
    help_text = (told.stdout + told.stderr).decode("utf-8", "replace")
    if "--model" not in help_text:
        sys.stderr.write(help_text[-4000:] + "\n")
        _fail(f"{binary} is no llama-server: its --help does not name --model")
    known = set(help_text.replace(",", " ").replace("|", " ").replace("[", " ").split())

    command = [binary, *orders["flags"]]
    if orders["socket"] and "unix socket" in help_text.lower():
        address = f"unix://{orders['socket']}"
        command += ["--host", orders["socket"]]
    else:
        port = _free_port()
        address = f"http://127.0.0.1:{port}"
        key_file = _write(orders, "key", orders["api_key"] + "\n")
        command += ["--host", "127.0.0.1", "--port", str(port), "--api-key-file", key_file]
    for names, *value in orders["optional"]:
        command += [word for name in names if name in known for word in (name, *value)][: 1 + len(value)]
    if orders["chat_template"]:
        command += ["--chat-template-file", _write(orders, "template.jinja", orders["chat_template"])]
    return address, command


def _write(orders: Orders, name: str, text: str) -> str:
    path = os.path.join(orders["directory"], name)
    with open(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    return path


def _serve_llama_cpp(orders: Orders, say: Any) -> int:
    import llama_cpp

    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    server_of = importlib.import_module("bindings_server").BindingsServer
    uvicorn: Any = importlib.import_module("uvicorn")
    values = dict(orders["values"])
    for path, name in orders["constants"].items():
        values[path] = getattr(llama_cpp, name, None)
        if values[path] is None:
            _fail(f"llama-cpp-python {llama_cpp.__version__} has no {name}: choose another {path}")
    at_socket, key = orders["socket"], orders["api_key"]
    try:
        llama = llama_cpp.Llama(**values)
    except (RuntimeError, ValueError, AssertionError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    llama.verbose = False  # it was needed for the reason of a load that fails; now it would print for each request
    app = server_of(
        llama_cpp, llama, alias=orders["alias"], template=orders["chat_template"], key=None if at_socket else key
    )
    listening = socket.socket(socket.AF_UNIX if at_socket else socket.AF_INET)
    listening.bind(at_socket or ("127.0.0.1", 0))
    listening.listen(128)
    address = f"unix://{at_socket}" if at_socket else f"http://127.0.0.1:{listening.getsockname()[1]}"
    # It takes connections from here on and answers them as soon as its loop runs, so it is not asked first.
    build = f"llama-cpp-python {llama_cpp.__version__}"
    line = {"ready": True, "address": address, "build": build, "n_ctx": llama.n_ctx(), "slots": 1}
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=2))
    server.handle_exit = lambda *_: None  # SIGTERM and SIGINT
    signal.signal(STOP_SIGNAL, lambda *_: setattr(server, "should_exit", True))
    print(json.dumps(line), file=say, flush=True)
    server.run(sockets=[listening])
    return 0


_SERVERS = {"xllamacpp": _serve_xllamacpp, "binary": _serve_binary, "llama_cpp": _serve_llama_cpp}

if __name__ == "__main__":
    sys.exit(main())
