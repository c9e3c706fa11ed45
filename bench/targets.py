"""The servers that bench/gateway.py measures, each in its own process, and their resource usage."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.env import DIRECTORY, ROOT

__all__ = ["KEY", "MODEL", "Target", "direct", "litellm", "miner", "relay", "replay", "router"]

KEY = "bench-key-of-more-than-16-characters"
MODEL = "plain"
"""The replay server's model for plain text."""

_TICK = os.sysconf("SC_CLK_TCK")
_START_SECONDS = 90.0
_STOP_SECONDS = 15.0
_MANY = "100000000"
"""A limit that is checked for each request and never reached."""


class Target:
    """A server under measurement.

    Args:
        url: where it listens.
        pid: its process; its children count with it.
    """

    def __init__(self, name: str, url: str, pid: int) -> None:
        self.name, self.url, self.pid = name, url, pid

    def cpu(self) -> float:
        """Seconds of CPU so far, in user and kernel mode."""
        return sum(_cpu_ticks(pid) for pid in self._pids()) / _TICK

    def rss(self) -> float:
        """Resident memory, in MB of 10^6 bytes."""
        return sum(_rss_kib(pid) for pid in self._pids()) * 1024 / 1e6

    def open_files(self) -> int:
        """Descriptors open now."""
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in self._pids())

    def _pids(self) -> list[int]:
        found, left = [], [self.pid]
        while left:
            pid = left.pop()
            found.append(pid)
            for task in Path(f"/proc/{pid}/task").iterdir():
                left += [int(child) for child in (task / "children").read_text().split()]
        return found


def _cpu_ticks(pid: int) -> int:
    # The name, in brackets, may contain spaces: count the fields after it.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _rss_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


@contextmanager
def _process(command: list[str], *, environ: dict[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """Run a process during the block; its standard error goes to a temporary file."""
    log = tempfile.TemporaryFile("w+")  # noqa: SIM115
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **(environ or {})}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=log, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.stdin is not None:
            process.stdin.close()
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.seek(0)
        text = log.read().strip()
        log.close()
        if text and os.environ.get("BENCH_LOGS"):
            print(f"--- {command[0]}\n{text[-4000:]}", file=sys.stderr)


@contextmanager
def _printing_port(command: list[str]) -> Iterator[tuple[str, int]]:
    """A server that prints its port and ends with its standard input."""
    with _process(command) as process:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        if not port:
            raise SystemExit(f"{' '.join(command)}: did not start (BENCH_LOGS=1 shows why).")
        yield f"http://127.0.0.1:{port}", process.pid


@contextmanager
def _listening(
    name: str, command: list[str], port: int, environ: dict[str, str] | None = None,
    *, ready: Callable[[Target], bool] | None = None,
) -> Iterator[Target]:  # fmt: skip
    """A server on the given port, once it is ready: by default, once it responds to a chat request."""
    with _process([*command], environ=environ) as process:
        # Its output is not read: a full pipe would block it.
        assert process.stdout is not None
        _drain(process.stdout.fileno())
        target = Target(name, f"http://127.0.0.1:{port}", process.pid)
        deadline = time.monotonic() + _START_SECONDS
        while not (ready or answers)(target):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{name}: did not start (BENCH_LOGS=1 shows why)")
            time.sleep(0.2)
        yield target


def _drain(descriptor: int) -> None:
    import threading

    def read() -> None:
        try:
            while os.read(descriptor, 65536):
                pass
        except OSError:
            pass

    threading.Thread(target=read, daemon=True).start()


def answers(target: Target) -> bool:
    """Whether it responds to a chat request with 200."""
    request = urllib.request.Request(
        f"{target.url}/v1/chat/completions",
        b'{"model":"%s","messages":[{"role":"user","content":"hi"}]}' % MODEL.encode(),
        {"content-type": "application/json", "authorization": f"Bearer {KEY}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _is_ready(target: Target) -> bool:
    request = urllib.request.Request(f"{target.url}/readyz", headers={"authorization": f"Bearer {KEY}"})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def replay(chunks: int, burst: int = 1) -> Iterator[Target]:
    """The upstream of all servers: recorded responses, `burst` chunks per write."""
    command = [sys.executable, "-m", "bench.replay_server", "--chunks", str(chunks), "--burst", str(burst)]
    with _printing_port(command) as (url, pid):
        yield Target("replay", url, pid)


@contextmanager
def direct(upstream: Target) -> Iterator[Target]:
    """No gateway."""
    yield Target("direct", upstream.url, upstream.pid)


@contextmanager
def relay(upstream: Target) -> Iterator[Target]:
    """bench/relay.py."""
    with _printing_port([sys.executable, "-m", "bench.relay", upstream.url]) as (url, pid):
        yield Target("bare relay", url, pid)


@contextmanager
def miner(upstream: Target) -> Iterator[Target]:
    """`miner serve` with a key, limits that are never reached, and metrics."""
    port = _free_port()
    environ = {
        "MINER_API_KEYS": KEY,
        "DEFAULT_MODEL": MODEL,
        "LLM_BACKEND": "vllm",
        "MINER_RATE_LIMIT_CONCURRENCY": _MANY,
        "MINER_RATE_LIMIT_REQUESTS": _MANY,
        "MINER_RATE_LIMIT_TOKENS": _MANY,
        "MINER_SERVE_LOG": "off",
        "MINER_SERVE_MAX_RUNNING": "4096",
        "VLLM_API_BASE": upstream.url + "/v1",
    }
    command = [sys.executable, "-m", "miner", "serve", "--port", str(port)]
    with _listening("miner serve", command, port, environ) as target:
        yield target


@contextmanager
def serving(environ: dict[str, str]) -> Iterator[Target]:
    """`miner serve` with this environment, once it is ready."""
    port = _free_port()
    command = [sys.executable, "-m", "miner", "serve", "--port", str(port)]
    with _listening("miner serve", command, port, environ, ready=_is_ready) as target:
        yield target


@contextmanager
def router(upstream: Target) -> Iterator[Target]:
    """vllm-router with its defaults, logging errors only."""
    port = _free_port()
    command = [
        str(DIRECTORY / "router/bin/vllm-router"), "--host", "127.0.0.1", "--port", str(port), "--worker-urls",
        upstream.url, "--policy", "round_robin", "--log-level", "error", "--prometheus-port", str(_free_port()),
    ]  # fmt: skip
    with _listening("vllm-router", command, port) as target:
        yield target


@contextmanager
def litellm(upstream: Target) -> Iterator[Target]:
    """LiteLLM's proxy, one worker, with its master key."""
    port = _free_port()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        config = directory / "litellm.yaml"
        config.write_text(
            f"model_list:\n- model_name: {MODEL}\n  litellm_params:\n    model: hosted_vllm/{MODEL}\n"
            f"    api_base: {upstream.url}/v1\n    api_key: none\n"
            f"general_settings:\n  master_key: {KEY}\nlitellm_settings:\n  telemetry: false\n"
        )
        command = [
            str(DIRECTORY / "litellm-proxy/bin/litellm"), "--config", str(config), "--host", "127.0.0.1",
            "--port", str(port), "--num_workers", "1",
        ]  # fmt: skip
        environ = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
        yield stack.enter_context(_listening("LiteLLM proxy", command, port, environ))
