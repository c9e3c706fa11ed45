"""`llama-server` for its own tests, without a start for each: a relay to a server that was started with the same
options and is kept for the tests that follow.

LLAMA_TESTS_SERVER is the script that is one; LLAMA_TESTS_TEMP the directory of the servers that run, of which the
oldest are ended. Only the standard library, so that this starts in no time.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

KEPT = 3
"""Servers that run at once."""
READY_SECONDS = 120.0


def main() -> None:
    """Relay until SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    arguments, port, host = _without_address(sys.argv[1:])
    upstream = _server(arguments)
    listener = socket.create_server((host.split(",")[0], port), reuse_port=False)
    while True:
        client, _ = listener.accept()
        threading.Thread(target=_relay, args=(client, upstream), daemon=True).start()


def _without_address(arguments: list[str]) -> tuple[list[str], int, str]:
    rest, port, host = [], 8080, "127.0.0.1"
    values = iter(arguments)
    for name in values:
        if name == "--port":
            port = int(next(values))
        elif name == "--host":
            host = next(values)
        elif name in os.environ.get("LLAMA_TESTS_WITHOUT_EFFECT", "").split():
            continue
        else:
            rest.append(name)
    return rest, port, host


def _server(arguments: list[str]) -> int:
    """The port of a server with these options."""
    pool = Path(os.environ["LLAMA_TESTS_TEMP"]) / "servers"
    pool.mkdir(exist_ok=True)
    name = hashlib.sha256("\0".join(arguments).encode()).hexdigest()[:16]
    record = pool / name
    with (pool / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if record.exists():
            port = int(record.read_text().split()[1])
            if _responds(port):
                record.touch()
                return port
            end(record)
        running = sorted(
            (each for each in pool.iterdir() if each.name != "lock"), key=lambda each: each.stat().st_mtime
        )
        for old in running[: max(0, len(running) + 1 - KEPT)]:
            end(old)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        command = [sys.executable, os.environ["LLAMA_TESTS_SERVER"], "--port", str(port), "--host", "127.0.0.1"]
        process = subprocess.Popen(
            [*command, *arguments], stdin=subprocess.DEVNULL, start_new_session=True,
            stdout=(pool.parent / "server.log").open("ab"), stderr=subprocess.STDOUT,
        )  # fmt: skip
        record.write_text(f"{process.pid} {port}")
        give_up = time.monotonic() + READY_SECONDS
        while not _responds(port):
            if process.poll() is not None or time.monotonic() > give_up:
                end(record)
                sys.exit(1)
            time.sleep(0.05)
    return port


def _responds(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.suppress(OSError), contextlib.closing(connection):
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    return False


def end(record: Path) -> None:
    """End the server of a record."""
    pid = int(record.read_text().split()[0])
    record.unlink()
    for number, seconds in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 1.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, number)
        give_up = time.monotonic() + seconds
        while _runs(pid) and time.monotonic() < give_up:
            time.sleep(0.05)


def _runs(pid: int) -> bool:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _relay(client: socket.socket, port: int) -> None:
    with client, socket.create_connection(("127.0.0.1", port)) as server:
        back = threading.Thread(target=_copy, args=(server, client), daemon=True)
        back.start()
        _copy(client, server)
        back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    for end_of in (source, target):
        with contextlib.suppress(OSError):
            end_of.shutdown(socket.SHUT_RDWR)


if __name__ == "__main__":
    main()
