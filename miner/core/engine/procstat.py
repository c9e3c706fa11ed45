"""Resources of processes, from /proc, or from `ps` where there is none; and the cores that this one may use."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

_PS_TIMEOUT = 2.0
_HAS_PROC = sys.platform == "linux"

LOOK_SECONDS = 0.25 if _HAS_PROC else 5.0
"""Interval between two samples of a process: 0.1 ms each from /proc, else a run of `ps`."""


class Usage(NamedTuple):
    """Resources of a process and its descendants."""

    cpu: float
    """Seconds of CPU time so far."""
    resident: int
    """Resident bytes."""
    stopped: bool = False
    """Whether one of them is suspended, by SIGSTOP or a debugger."""
    processes: frozenset[tuple[int, int]] = frozenset()
    """Process id and start time of each; empty where they are not known."""
    own_cpu: float = 0.0
    """Of `cpu`, what the process itself used."""
    own_resident: int = 0
    """Of `resident`, what the process itself has."""

    def of_descendants(self) -> Usage:
        """The usage without that of the process itself."""
        return self._replace(cpu=self.cpu - self.own_cpu, resident=self.resident - self.own_resident)


def process_usage(pid: int) -> Usage | None:
    """Usage of `pid` and its descendants; None if it has exited or it is unknown."""
    if _HAS_PROC:
        return _from_proc(pid)
    return _from_ps(pid)


def _from_proc(pid: int) -> Usage | None:
    cpu, resident, stopped, seen, processes = 0.0, 0, False, set[int](), set[tuple[int, int]]()
    own_cpu, own_resident = 0.0, 0
    ticks, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    waiting = [pid]
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        try:
            # The second field, the program's name in parentheses, may contain anything: count from its end.
            fields = Path(f"/proc/{one}/stat").read_bytes().rpartition(b")")[2].split()
            stopped |= fields[0] in (b"T", b"t")
            used, size = (int(fields[11]) + int(fields[12])) / ticks, int(fields[21]) * page
            cpu += used
            resident += size
            if one == pid:
                own_cpu, own_resident = used, size
            processes.add((one, int(fields[19])))
            for task in os.listdir(f"/proc/{one}/task"):
                waiting += map(int, Path(f"/proc/{one}/task/{task}/children").read_bytes().split())
        except (OSError, IndexError, ValueError):
            if one == pid:
                return None
    return Usage(cpu, resident, stopped, frozenset(processes), own_cpu, own_resident)


def start_time(pid: int) -> int | None:
    """When a process started, in the kernel's ticks; None if it does not run."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return None if fields[0] in (b"Z", b"X") else int(fields[19])
    except (OSError, IndexError, ValueError):
        return None


def _from_ps(pid: int) -> Usage | None:
    try:
        table = subprocess.run(
            ["ps", "-axo", "pid=,pgid=,rss=,time=,stat="],
            capture_output=True,
            timeout=_PS_TIMEOUT,
            check=False,
            text=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    cpu, resident, stopped, found = 0.0, 0, False, False
    own_cpu, own_resident = 0.0, 0
    for row in table.splitlines():
        fields = row.split()
        if len(fields) == 5 and str(pid) in fields[:2]:  # the engine leads a process group of its own
            used, size = _clock(fields[3]), int(fields[2]) * 1024
            cpu += used
            resident += size
            if fields[0] == str(pid):
                own_cpu, own_resident = used, size
            stopped |= fields[4].startswith("T")
            found = True
    return Usage(cpu, resident, stopped, own_cpu=own_cpu, own_resident=own_resident) if found else None


def _clock(text: str) -> float:
    """Seconds of `[days-][hours:]minutes:seconds`."""
    days, _, rest = text.rpartition("-")
    seconds = 0.0
    for part in rest.split(":"):
        seconds = seconds * 60 + float(part)
    return seconds + float(days or 0) * 86400


def physical_cores() -> int:
    """Cores that this process may use: hyperthreads count once, and the cgroup's quota applies.

    llama.cpp counts all cores of the machine; one thread too many halves its speed. The first call reads files: not on
    an event loop.
    """
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # not Linux
        return max(1, os.cpu_count() or 1)
    return _cores_of(frozenset(allowed))


@lru_cache(maxsize=16)
def _cores_of(allowed: frozenset[int]) -> int:
    cores = set[str]()
    for cpu in allowed:
        try:
            cores.add(Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text())
        except OSError:
            cores.add(str(cpu))
    return max(1, min(len(cores), _quota() or len(cores)))


def _quota() -> int | None:
    """CPUs that the cgroup allows; None: no limit."""
    try:
        allowed, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, round(int(allowed) / int(period)))
    except (OSError, ValueError):
        return None
