"""The private directory of the files in which prompts outlive an engine's stop."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from miner.core.models.directory import cache_directory

_PREFIX = "run-"


class SlotDirectory:
    """A new directory on disk that only this user can enter, locked until this process exits. Blocks.

    In the user's cache directory: a directory for temporary files may be memory. What processes left behind that were
    killed is removed first.

    Raises:
        OSError: it cannot be created.
    """

    def __init__(self) -> None:
        parent = _parent()
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._owner = os.getpid()
        with _locked(parent):  # so that nobody takes the new one for one left behind
            _remove_orphans(parent)
            self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
            self._lock = _lock(self.path)

    def remove(self) -> None:
        """Remove it and its contents, unless this process is a fork of the one that created it. Idempotent."""
        if os.getpid() != self._owner:
            return
        lock, self._lock = self._lock, -1
        if lock >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(lock)


def remove_orphans() -> None:
    """Remove only what processes left behind that were killed. Blocks."""
    parent = _parent()
    with contextlib.suppress(OSError), _locked(parent):
        _remove_orphans(parent)


def _parent() -> Path:
    return cache_directory() / "kv"


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    lock = _lock(directory, wait=True)
    try:
        yield
    finally:
        os.close(lock)


def _lock(directory: Path | str, *, wait: bool = False) -> int:
    """Its descriptor, locked; OSError if another process has locked it."""
    import fcntl  # not on Windows, where only engines that run already can be used

    descriptor = os.open(directory, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _remove_orphans(parent: Path) -> None:
    """Remove the directories of processes that have exited."""
    for entry in os.scandir(parent):
        with contextlib.suppress(OSError):  # it is locked, so in use
            if not entry.name.startswith(_PREFIX) or not entry.is_dir(follow_symlinks=False):
                continue
            lock = _lock(entry.path)
            try:
                shutil.rmtree(entry.path, ignore_errors=True)
            finally:
                os.close(lock)
