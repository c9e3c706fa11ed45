"""How much memory a new engine may take on this machine, now. Sizes are bytes."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from miner.core.models.memory.gpus import find_gpus, metal_free


@dataclass(frozen=True, slots=True)
class Memory:
    """Total and free memory; None if the system does not report it."""

    available: int | None
    """Available main memory of the machine or container, without swap; file caches count as available."""
    total: int | None
    """Main memory of the machine or container."""
    gpu_available: tuple[int, ...] = ()
    """Free memory of each GPU."""
    gpu_total: tuple[int, ...] = ()
    """All memory of each GPU."""
    gpu_kind: tuple[str, ...] = ()
    """CUDA, ROCm or Metal, for each GPU; empty: unknown."""
    unified: bool = False
    """Whether the GPU uses the machine's own memory."""


def available_memory(*, root: Path = Path("/"), gpus: bool = True) -> Memory:
    """Measure the free memory. Takes a few milliseconds, and with GPUs at most five seconds, so not for an event loop.

    Args:
        root: Where `proc` and `sys` are.
        gpus: Whether to look for GPUs too: see `gpus.py`.
    """
    free, total = _machine(root)
    for limit, used in _limits(root):
        total = limit if total is None else min(total, limit)
        left = max(limit - used, 0)
        free = left if free is None else min(free, left)
    found = find_gpus(root) if gpus else []
    unified = any(gpu.unified for gpu in found)
    if unified and free is None:
        free = metal_free()
    return Memory(
        free,
        total,
        tuple(gpu.free if gpu.free is not None else free or 0 for gpu in found),
        tuple(gpu.total for gpu in found),
        tuple(gpu.kind for gpu in found),
        unified,
    )


def gpu_is_likely() -> bool:
    """Whether this machine seems to have a GPU that an engine could use. Starts no process."""
    return sys.platform == "darwin" or shutil.which("nvidia-smi") is not None or Path("/dev/kfd").exists()


def _machine(root: Path) -> tuple[int | None, int | None]:
    values = _numbers(root / "proc/meminfo")
    if "MemTotal" in values:
        return values.get("MemAvailable", values.get("MemFree", 0)) * 1024, values["MemTotal"] * 1024
    if sys.platform != "win32" and "SC_PHYS_PAGES" in os.sysconf_names:
        return None, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None, None


def _limits(root: Path) -> list[tuple[int, int]]:
    """Limit and use of each cgroup that we are in; use without what the kernel can drop at once."""
    found: list[tuple[int, int]] = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            found += _group_limits(root / "sys/fs/cgroup", path, "memory.max", "memory.current", "")
        elif "memory" in controllers.split(","):
            mount, names = root / "sys/fs/cgroup/memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
            found += _group_limits(mount, path, *names, "total_")
    return found


def _group_limits(mount: Path, path: str, limit: str, usage: str, prefix: str) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    # Inside a container the path may be the host's, which is not visible there: then the mount itself is our group.
    group = mount / path.strip("/")
    for place in (group, *group.parents):
        allowed, used = _text(place / limit).strip(), _text(place / usage).strip()
        if allowed.isdecimal() and used.isdecimal() and int(allowed) < 1 << 60:
            stat = _numbers(place / "memory.stat")
            # Active ones too, as MemAvailable counts them: a model's file that is read again is no less droppable.
            droppable = sum(stat.get(f"{prefix}{kind}_file", 0) for kind in ("active", "inactive"))
            found.append((int(allowed), max(int(used) - droppable, 0)))
        if place == mount:
            break
    return found


def _numbers(path: Path) -> dict[str, int]:
    """Lines of a name and a number, as `/proc/meminfo` and `memory.stat` have them."""
    rows = (line.replace(":", " ").split() for line in _text(path).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) >= 2 and row[1].isdecimal()}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
