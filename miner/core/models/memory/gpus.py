"""The GPUs of this machine and what is free on each: NVIDIA's by `nvidia-smi`, AMD's by sysfs, Apple's by its tools.

GPUs that CUDA_VISIBLE_DEVICES, HIP_VISIBLE_DEVICES or ROCR_VISIBLE_DEVICES hide from an engine are left out. Sizes are
bytes. A tool that hangs is waited for once and then not run for a minute.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

GPU_QUERY = ("--query-gpu=memory.free,memory.total", "--format=csv,noheader,nounits")
USAGE_QUERY = ("--query-compute-apps=pid,gpu_uuid,used_memory", "--format=csv,noheader,nounits")
UUID_QUERY = ("--query-gpu=uuid", "--format=csv,noheader")
PROCESS_QUERY = ("--query-compute-apps=pid,used_memory,process_name", "--format=csv,noheader,nounits")
GPU_TIMEOUT = 5.0
HUNG_SECONDS = 60.0
MIB = 1 << 20
METAL_SHARE = 0.75
"""Share of the machine's memory that macOS lets a GPU use."""

_running = threading.Lock()
_hung: dict[str, float] = {}


@dataclass(frozen=True, slots=True)
class GPU:
    """One GPU and its memory, in bytes."""

    kind: str
    free: int | None
    """None: the machine's own free memory."""
    total: int
    unified: bool = False
    """Whether its memory is the machine's."""


def find_gpus(root: Path = Path("/")) -> list[GPU]:
    """Return the GPUs that an engine would find, in its order. Runs programs, so not for an event loop.

    Args:
        root: Where `sys` is.
    """
    if sys.platform == "darwin":
        return _apple()
    return _nvidia() or _amd(root)


@dataclass(frozen=True, slots=True)
class GPUProcess:
    """A process that takes memory of a GPU."""

    pid: int
    name: str
    size: int


def gpu_processes() -> list[GPUProcess]:
    """The processes on NVIDIA's GPUs, the largest first; those of other containers may be missing."""
    rows = [[part.strip() for part in line.split(",", 2)] for line in _output("nvidia-smi", PROCESS_QUERY)]
    found = [
        GPUProcess(int(row[0]), os.path.basename(row[2]), int(row[1]) * MIB)
        for row in rows
        if len(row) == 3 and row[0].isdecimal() and row[1].isdecimal()
    ]
    return sorted(found, key=lambda process: -process.size)


def gpu_memory_of(pids: Collection[int]) -> tuple[int, ...]:
    """Bytes of each GPU that these processes take together; empty where the driver does not say it (AMD, Apple, most
    containers). Runs programs, so not for an event loop.
    """
    uuids = _visible_uuids()
    taken = dict.fromkeys(uuids, 0)
    for line in _output("nvidia-smi", USAGE_QUERY) if uuids else ():
        row = [part.strip() for part in line.split(",")]
        if len(row) == 3 and row[0].isdecimal() and row[2].isdecimal() and int(row[0]) in pids and row[1] in taken:
            taken[row[1]] += int(row[2]) * MIB
    return tuple(taken.values())


def _visible_uuids() -> list[str]:
    """The UUIDs of the GPUs that `find_gpus` returns, in its order."""
    uuids = [line.strip() for line in _output("nvidia-smi", UUID_QUERY)]
    stated = os.environ.get("CUDA_VISIBLE_DEVICES")
    if stated is None:
        return uuids
    names = [part.strip() for part in stated.split(",") if part.strip()]
    if all(name.lstrip("-").isdecimal() for name in names):
        return [uuids[int(name)] for name in names if name.isdecimal() and int(name) < len(uuids)]
    return [uuid for name in names for uuid in uuids if uuid.startswith(name)]


def _nvidia() -> list[GPU]:
    """The GPUs that `nvidia-smi` lists."""
    rows = [[part.strip() for part in line.split(",")] for line in _output("nvidia-smi", GPU_QUERY)]
    found = [
        GPU("CUDA", int(row[0]) * MIB, int(row[1]) * MIB)
        for row in rows
        if len(row) == 2 and all(part.isdecimal() for part in row)
    ]
    stated = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not found or stated is None:
        return found
    names = [part.strip() for part in stated.split(",") if part.strip()]
    if all(name.lstrip("-").isdecimal() for name in names):
        return _visible(found, names)
    uuids = [line.strip() for line in _output("nvidia-smi", UUID_QUERY)]
    if len(uuids) != len(found):
        return found
    return [gpu for name in names for gpu, uuid in zip(found, uuids, strict=True) if uuid.startswith(name)]


def _amd(root: Path) -> list[GPU]:
    """The cards that the driver amdgpu lists."""
    found = []
    cards = [path for path in (root / "sys/class/drm").glob("card*") if re.fullmatch(r"card\d+", path.name)]
    for card in sorted(cards, key=lambda path: int(path.name[4:])):
        total, used = (_number(card / "device" / f"mem_info_vram_{what}") for what in ("total", "used"))
        if total is not None and used is not None:
            found.append(GPU("ROCm", max(total - used, 0), total))
    for variable in ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        stated = os.environ.get(variable)
        names = [part.strip() for part in (stated or "").split(",") if part.strip()]
        if stated is not None and all(name.lstrip("-").isdecimal() for name in names):
            found = _visible(found, names)
    return found


def _apple() -> list[GPU]:
    """The GPU of Apple's own processors, which shares the machine's memory."""
    if os.uname().machine != "arm64":
        return []
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return [GPU("Metal", None, int(total * METAL_SHARE), unified=True)]


def metal_free() -> int | None:
    """Bytes of macOS's memory that are free or can be dropped at once, by `vm_stat`."""
    lines = list(_output("vm_stat", ()))
    size = re.search(r"page size of (\d+) bytes", lines[0]) if lines else None
    if size is None:
        return None
    counts = dict(re.findall(r'^"?Pages ([a-z -]+)"?:\s+(\d+)\.', "\n".join(lines), re.MULTILINE))
    pages = sum(int(counts.get(name, 0)) for name in ("free", "inactive", "speculative", "purgeable"))
    return pages * int(size[1]) or None


def _visible(found: Sequence[GPU], names: Sequence[str]) -> list[GPU]:
    """GPUs at these indices; an invalid index hides the ones after it, as the drivers do."""
    visible = []
    for name in names:
        if not name.isdecimal() or int(name) >= len(found):
            break
        visible.append(found[int(name)])
    return visible


def _output(name: str, arguments: Sequence[str]) -> list[str]:
    """The lines that a program prints; none if it is missing, fails, or hangs."""
    program = shutil.which(name)
    if program is None:
        return []
    with _running:  # one at a time: a second caller waits for one that hangs and starts no other
        if _hung.get(program, 0.0) > time.monotonic():
            return []
        try:
            finished = subprocess.run(
                [program, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=GPU_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            _hung[program] = time.monotonic() + HUNG_SECONDS
            return []
        except (OSError, UnicodeDecodeError):
            return []
    return finished.stdout.splitlines() if finished.returncode == 0 else []


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
