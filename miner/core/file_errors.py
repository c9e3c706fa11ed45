"""What to do about a file that the system does not let us read or write."""

from __future__ import annotations

import errno
import shlex
from pathlib import Path


def way_out(error: OSError, path: Path) -> str:
    """The sentence that follows "PATH cannot be read" or "written"."""
    file, directory = shlex.quote(str(path)), shlex.quote(str(path.parent))
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            return f"Free space there, or write to another disk: `df -h {directory}` says how much it has."
        case errno.EISDIR:
            return "It is a directory: name a file."
        case errno.ENOTDIR | errno.EEXIST:
            return "A part of its path is a file, not a directory: choose another path, or move that file away."
        case errno.ELOOP:
            return f"Its links lead to each other: `ls -l {file}` shows where; remove one of them."
        case errno.ENAMETOOLONG:
            return "Choose a shorter name."
        case errno.EROFS:
            return "The disk is mounted read-only: choose another path, or mount it writable."
        case errno.EACCES | errno.EPERM:
            return f"`ls -ld {directory} {file}` says who may; run the command as that user."
    return f"`ls -ld {directory} {file}` says what is there."
