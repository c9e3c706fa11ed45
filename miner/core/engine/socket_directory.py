"""The private directory of an engine's socket: created, locked and removed, and cleaned up after crashes."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path

_PREFIX = "miner-engine-"
_LONG = 60  # bytes: with a path longer than that a socket's name might not fit
_SHORT_PARENTS = ("/tmp", "/var/tmp")
_YOUNG = 60.0  # seconds during which the owner of a directory may not have locked it yet


class SocketDirectory:
    """A new directory that only this user can enter, locked until this process exits.

    A child removes it when its parent was killed. If both were killed, the next engine that starts does.
    """

    def __init__(self) -> None:
        parent = _parent()
        _remove_orphans(parent)
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        self._lock = os.open(self.path, os.O_RDONLY)
        _lock(self._lock)

    def remove(self) -> None:
        """Remove it and its contents. Idempotent."""
        shutil.rmtree(self.path, ignore_errors=True)
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)


def _parent() -> str:
    usual = tempfile.gettempdir()
    if len(os.fsencode(usual)) < _LONG:
        return usual
    return next((parent for parent in _SHORT_PARENTS if os.access(parent, os.W_OK)), usual)


def _lock(directory: int) -> None:
    """Lock it; OSError if another process has."""
    import fcntl  # not on Windows, where only engines that run already can be used

    fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _remove_orphans(parent: str) -> None:
    """Remove the directories of engines whose owners have exited."""
    oldest = time.time() - _YOUNG
    for entry in os.scandir(parent):
        with contextlib.suppress(OSError):  # it is locked, so in use, or another process removes it
            if not entry.name.startswith(_PREFIX) or entry.is_symlink():
                continue
            found = entry.stat(follow_symlinks=False)
            if found.st_uid != os.getuid() or found.st_mtime > oldest:
                continue
            lock = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                _lock(lock)
                shutil.rmtree(entry.path, ignore_errors=True)
            finally:
                os.close(lock)
