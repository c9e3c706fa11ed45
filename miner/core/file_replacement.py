"""Replacing a file at once, so that no program reads half of it, and the file stays whose it was."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from pathlib import Path

from miner.errors import ConfigError

_PRIVATE = 0o600


def resolved(path: Path) -> Path:
    """The file that a path stands for, with all links followed; it need not exist."""
    return Path(os.path.realpath(path))


def replace_file(path: Path, data: bytes, *, private: bool = False) -> None:
    """Replace a file's content. Mode, owner and group stay, and a link stays one; a new file is its owner's only.

    Args:
        private: whether also a file that is there already becomes readable by its owner only.

    Raises:
        ConfigError: it is no regular file, is protected, or would belong to somebody else. Nothing was written.
        OSError: it cannot be written.
    """
    path = resolved(path)
    before = _replaceable(path)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")  # its mode is 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            if before is not None:
                _keep_owner(path, file.fileno(), before)
                if not private and sys.platform != "win32":
                    os.fchmod(file.fileno(), before.st_mode & 0o777)  # after chown, which may clear bits
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _replaceable(path: Path) -> os.stat_result | None:
    """The file as it is; None: there is none.

    Raises:
        ConfigError: it must not be replaced.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError(
            f"{path} cannot be written: it is no regular file.", operator_hint="Name another file, or move it away."
        )
    if not found.st_mode & stat.S_IWUSR:  # root could, and anybody can replace it: it is protected on purpose
        raise ConfigError(
            f"{path} cannot be written: it is write-protected (mode {found.st_mode & 0o777:04o}).",
            operator_hint=f"To allow it: chmod u+w {path}",
        )
    return found


def _keep_owner(path: Path, descriptor: int, before: os.stat_result) -> None:
    """Give a new file the owner and the group of the one before.

    Raises:
        ConfigError: that is not permitted.
    """
    if sys.platform == "win32":
        return
    now = os.fstat(descriptor)
    if (now.st_uid, now.st_gid) == (before.st_uid, before.st_gid):
        return
    try:
        os.fchown(descriptor, before.st_uid, before.st_gid)
    except OSError:
        raise ConfigError(
            f"{path} cannot be written: it belongs to user {before.st_uid}, group {before.st_gid}, and could not be "
            "given back to them.",
            operator_hint=f"Run the command as its owner: sudo -u '#{before.st_uid}' miner ...",
        ) from None
