"""Marks what a run of a user's command starts, by a variable in its environment.

So it is found whatever session and parent it has by then, when the process that would have adopted it was killed. For
that case alone: what another service started with a copy of this environment (`at`, `sbatch`) would be found too, and a
process that sets its title (setproctitle) may have overwritten its own. Imports nothing of miner: `child.py` uses it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

VARIABLE = "MINER_ENGINE_RUN"
_ROUNDS = 100


def kill_marked(marker: str) -> None:
    """SIGKILL to all processes whose environment has this marker; without /proc, to none."""
    for _ in range(_ROUNDS):  # one that forks while we look is found in the next round
        if not _kill_round(f"{VARIABLE}={marker}".encode()):
            return
        time.sleep(0.01)


def _kill_round(entry: bytes) -> bool:
    """Return whether there was one."""
    found = False
    with contextlib.suppress(OSError):
        for process in os.scandir("/proc"):
            # That of another user cannot be read, that of one that has ended is empty.
            with contextlib.suppress(OSError):
                if process.name.isdecimal() and entry in Path(process.path, "environ").read_bytes().split(b"\0"):
                    found = True
                    os.kill(int(process.name), signal.SIGKILL)
    return found
