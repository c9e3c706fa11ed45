"""Standard error, where the server speaks: it may be closed, or a file on a full disk, and the server serves all the
same.
"""

from __future__ import annotations

import os
import sys

__all__ = ["give_up_unwritten", "open_missing"]


def open_missing() -> None:
    """Fill those of the descriptors 0, 1 and 2 that are closed: the next connection would get the number, and then the
    log would be written to a client.
    """
    while True:
        taken = os.open(os.devnull, os.O_RDWR)
        if taken > 2:
            os.close(taken)
            return


def give_up_unwritten() -> None:
    """Before the process ends: what could not be written is not worth an exit status of its own."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None:
            continue
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
