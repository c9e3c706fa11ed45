"""What processes take of the main memory, and who takes most of it. Sizes are bytes; Linux only, else nothing."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

_MANY = 3
_WORTH_NAMING = 0.02
"""Of all memory."""


@dataclass(frozen=True, slots=True)
class Process:
    """One process and the memory that would be free without it."""

    pid: int
    name: str
    size: int


def held_memory(pids: Collection[int], root: Path = Path("/")) -> int:
    """What these processes and their descendants take of the free memory.

    Pages of files do not count: the system drops them where memory is short, and counts them as available.
    """
    return sum(_tree(pid, root) for pid in pids)


def largest_processes(total: int, *, without: Collection[int] = (), root: Path = Path("/")) -> list[Process]:
    """The processes that take most, at most three and each at least a fiftieth of `total`, the largest first.

    Args:
        without: process ids that are left out, with their descendants.
    """
    left_out = {one for pid in without for one in with_descendants(pid, root)}
    found = []
    for directory in (root / "proc").glob("[0-9]*"):
        pid = int(directory.name)
        if pid in left_out:
            continue
        private, shared, name = _memory_of(pid, root)
        if private + shared >= total * _WORTH_NAMING:
            found.append(Process(pid, name, private + shared))
    return sorted(found, key=lambda process: -process.size)[:_MANY]


def with_descendants(pid: int, root: Path = Path("/")) -> list[int]:
    """The process and all that it and they have started; itself alone where there is no /proc."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        one = waiting.pop()
        if one in found:
            continue
        found.append(one)
        try:
            for task in (root / f"proc/{one}/task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
        except (OSError, ValueError):
            continue
    return found


def _tree(pid: int, root: Path) -> int:
    sizes = [_memory_of(one, root) for one in with_descendants(pid, root)]
    # Shared memory is the same for all of them, as far as can be seen cheaply: it counts once.
    return sum(private for private, *_ in sizes) + max((shared for _, shared, _ in sizes), default=0)


def _memory_of(pid: int, root: Path) -> tuple[int, int, str]:
    """Private and shared bytes, and the name; zeros for a process that has ended, or of the kernel."""
    try:
        text = (root / f"proc/{pid}/status").read_text(errors="replace")
    except OSError:
        return 0, 0, ""
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)

    def size(name: str) -> int:
        words = fields.get(name, "").split()
        return int(words[0]) * 1024 if words and words[0].isdecimal() else 0

    return size("RssAnon"), size("RssShmem"), fields.get("Name", "").strip()
