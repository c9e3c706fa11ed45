"""Instance: one process that uses a database, and whether another one still lives.

Each holds a lock on a file of its own beside the database. The system releases the lock when the process ends, however
it ends, and in whichever container it ran: a process id would say less.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

try:
    import fcntl
except ImportError:  # no such locks on Windows: there one process is assumed
    fcntl = None  # type: ignore[assignment]


class Instance:
    """The lock of this process, and a look at those of others."""

    def __init__(self, database: Path) -> None:
        self.id = secrets.token_hex(8)
        self._database = database
        self._path = self._lock_path(self.id)
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if fcntl is not None:
            fcntl.flock(self._fd, fcntl.LOCK_EX)

    def lives(self, other: str) -> bool:
        """Whether the process with this id still runs; the file that a dead one left is removed."""
        if other == self.id:
            return True
        path = self._lock_path(other)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            if fcntl is not None:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            with contextlib.suppress(OSError):
                os.unlink(path)
            return False
        finally:
            os.close(fd)

    def close(self) -> None:
        """Release the lock: this process uses the database no longer."""
        with contextlib.suppress(OSError):
            os.unlink(self._path)
        os.close(self._fd)

    def _lock_path(self, instance: str) -> Path:
        return self._database.with_name(f"{self._database.name}.{instance}.lock")
