"""Runs `miner` in copies of a process that has imported it already: a process of its own each time, with pipes, signals
and an end as any, without the half second that Python and the imports take.

Run by path with the number of a socket; each request there brings three descriptors, and is answered by the child's id
and then by its exit status.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

__all__ = ["ForkedMiner"]

LOADED = ("generate", "backends", "models", "fit", "serve", "keys", "vllm", "doctor")


class ForkedMiner:
    """A process that forks one `miner` after the other."""

    def __init__(self, env: dict[str, str]) -> None:
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(other.fileno())], pass_fds=[other.fileno()], env=env,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip

    def run(
        self, arguments: list[str], stdin: bytes | None, cwd: Path, env: dict[str, str], timeout: float
    ) -> subprocess.CompletedProcess[bytes]:
        """What `subprocess.run([python, "-m", "miner", ...], capture_output=True)` returns."""
        ours, theirs = [], []
        for _ in range(3):
            read, write = os.pipe()
            ours.append(read if ours else write)
            theirs.append(write if theirs else read)
        pipes = [os.fdopen(ours[0], "wb"), os.fdopen(ours[1], "rb"), os.fdopen(ours[2], "rb")]
        if stdin is None:
            os.close(theirs[0])
            theirs[0] = os.open(os.devnull, os.O_RDONLY)
        asked = json.dumps({"arguments": arguments, "cwd": str(cwd), "env": env}).encode()
        self._socket.settimeout(timeout)
        socket.send_fds(self._socket, [asked], theirs)
        for descriptor in theirs:
            os.close(descriptor)
        pid = int(self._socket.recv(100))
        said: list[bytes] = [b"", b""]
        threads = [
            threading.Thread(target=_write, args=(pipes[0], stdin or b"")),
            *(threading.Thread(target=_read, args=(pipes[1 + number], said, number)) for number in range(2)),
        ]
        for thread in threads:
            thread.start()
        try:
            status = int(self._socket.recv(100))
        except TimeoutError:
            os.kill(pid, 9)
            self._socket.recv(100)
            raise subprocess.TimeoutExpired(arguments, timeout) from None
        finally:
            for thread in threads:
                thread.join(timeout)
        return subprocess.CompletedProcess(arguments, status, *said)

    def end(self) -> None:
        """No more of them."""
        self._socket.close()
        self._process.wait(60)


def _write(pipe, data: bytes) -> None:
    try:
        with pipe:
            pipe.write(data)
    except BrokenPipeError:
        pass


def _read(pipe, said: list[bytes], number: int) -> None:
    with pipe:
        said[number] = pipe.read()


def serve(requests: socket.socket) -> list[str] | None:
    """Fork for each request. Returns twice: in each child with what it is to run, and at the end with None."""
    while True:
        asked, descriptors, _, _ = socket.recv_fds(requests, 1 << 20, 3)
        if not asked:
            return None
        pid = os.fork()
        if pid == 0:
            for number, descriptor in enumerate(descriptors):
                os.dup2(descriptor, number)
                os.close(descriptor)
            what = json.loads(asked)
            os.environ.clear()
            os.environ.update(what["env"])
            os.chdir(what["cwd"])
            return what["arguments"]
        for descriptor in descriptors:
            os.close(descriptor)
        requests.send(str(pid).encode())
        requests.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())


if __name__ == "__main__":
    from importlib import import_module

    from miner.cli.main import run

    names = [f"miner.cli.commands.{command}" for command in LOADED]
    names += ["miner.cli.doctor.checklist", "miner.gateway.auth.key_store", "miner.gateway.middleware.hosts"]
    names += ["miner.cli.signals", "miner.cli.output.terminal", "miner.config.config", "miner.core.llms.llm_llamacpp"]
    for name in (*names, "miner.core.llms.llm_ollama", "miner.core.llms.llm_vllm"):
        import_module(name)
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        arguments = serve(requests)
    if arguments is not None:
        sys.argv[1:] = arguments
        sys.exit(run())
