"""The machine that the load comes from, as a result describes it."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from miner.cli.bench.result import Machine

_NAMES = ("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
_SECONDS = 5.0


def this_machine() -> Machine:
    """Look at this machine. May run programs, so not for an event loop."""
    from miner.core.models.memory.available import available_memory

    memory = available_memory()
    return Machine(
        cpu=_cpu(),
        cores=_cores(),
        memory=memory.total,
        gpus=_gpus(memory.gpu_kind, memory.gpu_total),
        os=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
    )


def _gpus(kinds: Sequence[str], totals: Sequence[int]) -> list[str]:
    """Name and memory of each GPU; its kind where the driver does not name it."""
    from miner.core.models.memory.verdict import readable

    names = _nvidia_names() if "CUDA" in kinds else []
    if len(names) != len(totals):
        names = list(kinds or ("GPU",) * len(totals))
    return [f"{name}, {readable(total)}" for name, total in zip(names, totals, strict=True)]


def _nvidia_names() -> list[str]:
    try:
        done = subprocess.run(_NAMES, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []


def _cpu() -> str | None:
    """The processor's name."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor() or platform.machine() or None


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
