"""Backends of other packages: each is loaded in a process of its own first, which it may crash, end or block."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from importlib.metadata import entry_points

from miner.core.llms.registry import GROUP

LOAD_SECONDS = 60.0
"""For an import; some load torch."""
_LOAD = """
import json, sys
from miner.core.llms.registry import load_backend
backend = load_backend(sys.argv[1])
sys.stdout.flush()
print("\\0" + json.dumps({"reason": backend.reason, "configured": backend.configured}))
"""
_lock = threading.Lock()
_known: dict[str, tuple[str | None, bool]] = {}
_locks: dict[str, threading.Lock] = {}


def is_foreign(name: str) -> bool:
    """Whether another package registers this backend."""
    point = next((point for point in entry_points(group=GROUP) if point.name == name), None)
    return point is not None and not point.value.startswith("miner.")


def foreign_reason(name: str, seconds: float) -> tuple[str | None, bool]:
    """Why it cannot be used, None if it can; and whether the settings name something that it could serve. Found out
    once for each name.

    Args:
        seconds: most seconds for its import.
    """
    with _lock:
        own = _locks.setdefault(name, threading.Lock())
    with own:
        if name not in _known:
            _known[name] = _load(name, min(LOAD_SECONDS, seconds))
        return _known[name]


def _load(name: str, seconds: float) -> tuple[str | None, bool]:
    try:
        done = subprocess.run(
            [sys.executable, "-c", _LOAD, name],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return f"importing it takes longer than {seconds:g} s", True
    found = done.stdout.rpartition(b"\0")[2] if b"\0" in done.stdout else b""
    if done.returncode == 0 and found:
        answer = json.loads(found)
        return answer["reason"], bool(answer["configured"])
    last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit status {done.returncode}"
    return f"importing it ends the process ({how}){f': {last}' if last else ''}", True
