"""The machine that the load comes from, as a result describes it."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from miner.cli.bench.result import Machine


def this_machine() -> Machine:
    """Look at this machine. May run programs, so not for an event loop."""
    from miner.core.models.memory.available import available_memory
    from miner.core.models.memory.verdict import readable

    memory = available_memory()
    kinds = memory.gpu_kind or ("GPU",) * len(memory.gpu_total)
    return Machine(
        cpu=_cpu(),
        cores=_cores(),
        memory=memory.total,
        gpus=[f"{kind}, {readable(total)}" for kind, total in zip(kinds, memory.gpu_total, strict=True)],
        os=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
    )


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
