"""Asks a server that starts whether it is ready. Imports nothing of miner: only `child.py` and its siblings use it."""

from __future__ import annotations

import contextlib
import http.client
import time

FIRST_PAUSE = 0.02
"""Seconds between the first two checks."""
_LONGEST_PAUSE = 1.0
_READ_SECONDS = 1.0
_READ_BYTES = 1 << 16


def next_pause(pause: float, waited: float) -> float:
    """Seconds until the next check: at most a hundredth of the time since the start, or a quarter of a second.

    The checks of a start that hangs must not cost the server so much that it looks busy.
    """
    return min(pause * 1.5, max(0.25, min(_LONGEST_PAUSE, waited / 100)))


def status_of(connection: http.client.HTTPConnection, path: str, key: str | None) -> int | None:
    """The status that GET returns, None without one. The connection is closed.

    The response is read as far as it comes at once: a connection that is closed before is reset, and many servers print
    a traceback then.
    """
    try:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        connection.request("GET", path, headers={"Connection": "close", **headers})
        sock = connection.sock
        response = connection.getresponse()
        with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
            sock.settimeout(_READ_SECONDS)
            end, left = time.monotonic() + _READ_SECONDS, _READ_BYTES
            while left > 0 and time.monotonic() < end and (data := response.read1(left)):
                left -= len(data)
        return response.status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
