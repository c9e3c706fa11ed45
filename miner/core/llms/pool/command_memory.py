"""What a command takes of memory: what the file says, what vLLM's options say, or what it took at its last run."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from miner.core.engine.command import CommandSpec

logger = logging.getLogger("miner.pool")

_UTILIZATION = 0.92  # vLLM 0.32; earlier versions took 0.9
_UTILIZATION_OPTIONS = ("--gpu-memory-utilization", "--device-memory-utilization")
_PARALLEL_OPTIONS = (
    ("--tensor-parallel-size", "-tp"), ("--pipeline-parallel-size", "-pp"),
    ("--data-parallel-size-local", "-dpl"), ("--data-parallel-size", "-dp"),
)  # fmt: skip
_FIXED_CACHE = "--kv-cache-memory-bytes"
_MOST_RECORDS = 200


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes that a command takes."""

    memory: int
    gpu_memory: tuple[int, ...] = ()
    """On each GPU."""


def vllm_gpu_memory(spec: CommandSpec, totals: Sequence[int]) -> tuple[int, ...] | None:
    """Bytes that a vLLM takes of each GPU by its options; None: they do not say.

    Args:
        totals: all memory of each GPU.
    """
    if not totals or _option(spec.argv, (_FIXED_CACHE,)) is not None:
        return None
    try:
        share = float(_option(spec.argv, _UTILIZATION_OPTIONS) or _UTILIZATION)
        sizes = [int(_option(spec.argv, names) or 1) for names in _PARALLEL_OPTIONS]
    except ValueError:
        return None
    local = sizes[2] if _option(spec.argv, _PARALLEL_OPTIONS[2]) is not None else sizes[3]
    count = sizes[0] * sizes[1] * local
    devices = dict(spec.env).get("CUDA_VISIBLE_DEVICES")
    if devices is None:
        cards = list(range(len(totals)))
    else:
        names = [part.strip() for part in devices.split(",") if part.strip()]
        if not all(name.isdecimal() for name in names):
            return None
        cards = [int(name) for name in names]
    used = set(cards[:count])
    return tuple(int(share * total) if card in used else 0 for card, total in enumerate(totals))


def _option(argv: Sequence[str], names: Sequence[str]) -> str | None:
    """The value of the last of these options, as vLLM reads them: with - or _, separate or after =."""
    found: str | None = None
    for place, word in enumerate(argv):
        name, equals, value = word.partition("=")
        if name.startswith("--"):
            name = "--" + name[2:].replace("_", "-")
        if name in names:
            found = value if equals else argv[place + 1] if place + 1 < len(argv) else None
    return found


def state_directory() -> Path:
    """Where this user's programs keep what they remember."""
    directory = os.environ.get("XDG_STATE_HOME", "")
    base = Path(directory) if os.path.isabs(directory) else Path("~/.local/state").expanduser()
    return base / "miner"


@dataclass(slots=True)
class FootprintFile:
    """What commands took at their last run: a file of this user. One that cannot be read or written is no error."""

    path: Path = field(default_factory=lambda: state_directory() / "commands.json")
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, spec: CommandSpec) -> Footprint | None:
        """What it took; None: it has not run here."""
        record: Any = self._read().get(_key(spec))
        try:
            return Footprint(int(record["memory"]), tuple(map(int, record["gpu_memory"])))
        except (TypeError, KeyError, ValueError):
            return None

    def put(self, spec: CommandSpec, taken: Footprint) -> None:
        """Remember what it took. Blocks."""
        with self._lock:
            records = self._read()
            records.pop(_key(spec), None)
            records[_key(spec)] = {
                "command": spec.shown, "memory": taken.memory, "gpu_memory": list(taken.gpu_memory),
            }  # fmt: skip
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with tempfile.NamedTemporaryFile(
                    "w", dir=self.path.parent, prefix=self.path.name, delete=False, encoding="utf-8"
                ) as file:
                    json.dump(dict(list(records.items())[-_MOST_RECORDS:]), file, indent=1)
                os.replace(file.name, self.path)
            except OSError as error:
                logger.info("What %s took is not remembered: %s", spec.title, error)

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def _key(spec: CommandSpec) -> str:
    """Commands of one key take the same. A hash: the environment may hold secrets."""
    text = json.dumps([spec.argv, sorted(spec.env), str(spec.directory)])
    return hashlib.sha256(text.encode()).hexdigest()[:24]
