"""The private directory of one child, for its socket: made, locked, removed, and swept up after those who could not."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path

__all__ = ["SocketDirectory"]

_PREFIX = "miner-engine-"
_LONG = 60  # bytes: with a path longer than that a socket's name might not fit
_SHORT_PLACES = ("/tmp", "/var/tmp")
_YOUNG = 60.0  # seconds during which a directory that nobody has locked may belong to somebody who is about to


class SocketDirectory:
    """A new directory that only this user can enter. Its lock ends with the process, however that ends.

    A child removes its directory when its parent was killed. When it was killed itself at the same time, the next
    engine that starts does.
    """

    def __init__(self) -> None:
        place = _place()
        _sweep(place)
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
        self._lock = os.open(self.path, os.O_RDONLY)
        _hold(self._lock)

    def remove(self) -> None:
        """Remove it with what is in it. Idempotent."""
        shutil.rmtree(self.path, ignore_errors=True)
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)


def _place() -> str:
    usual = tempfile.gettempdir()
    if len(os.fsencode(usual)) < _LONG:
        return usual
    return next((place for place in _SHORT_PLACES if os.access(place, os.W_OK)), usual)


def _hold(directory: int) -> None:
    """Lock it, or raise OSError if somebody else has."""
    import fcntl  # not on Windows, where a server that runs already can still be talked to

    fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _sweep(place: str) -> None:
    """Remove the directories of engines that nobody owns any more."""
    oldest = time.time() - _YOUNG
    for entry in os.scandir(place):
        with contextlib.suppress(OSError):  # another one sweeps too, or it is locked: in use
            if not entry.name.startswith(_PREFIX) or entry.is_symlink():
                continue
            found = entry.stat(follow_symlinks=False)
            if found.st_uid != os.getuid() or found.st_mtime > oldest:
                continue
            lock = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                _hold(lock)
                shutil.rmtree(entry.path, ignore_errors=True)
            finally:
                os.close(lock)
