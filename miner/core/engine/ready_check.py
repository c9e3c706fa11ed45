"""Asks a server that starts whether it is ready. Imports nothing of miner: `child.py` and its siblings use it."""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from collections.abc import Callable
from typing import Literal

CheckState = Literal["begins", "reached", "refused"]
CHECK_LINES = [json.dumps({"check": state}).encode() for state in ("begins", "reached", "refused")]
"""What the child tells its parent of each check, so that it knows what the server prints because of it."""
NO_RESPONSE = 0
"""The status of a server that takes the connection, and gives no response."""
FIRST_PAUSE = 0.02
"""Seconds between the first two checks."""
_LONGEST_PAUSE = 1.0
_READ_SECONDS = 1.0
_READ_BYTES = 1 << 16


def next_pause(pause: float, waited: float, took: float) -> float:
    """Seconds until the next check: at most a hundredth of the time since the start, or a quarter of a second, or twice
    as long as the last check took.

    The checks of a start that hangs must not cost the server so much that it looks busy; and what it prints by itself
    is told from what it prints of the checks by the pauses between them.
    """
    return min(pause * 1.5, max(0.25, min(_LONGEST_PAUSE, max(waited / 100, 2 * took))))


def status_of(
    connection: http.client.HTTPConnection, path: str, key: str | None, tell: Callable[[CheckState], None]
) -> int | None:
    """The status that GET returns, NO_RESPONSE, or None if no server could be reached. The connection is closed.

    The response is read as far as it comes at once: a connection that is closed before is reset, and many servers print
    a traceback then.
    """
    tell("begins")
    status = None
    try:
        if connection.sock is None:
            connection.connect()
        status = NO_RESPONSE
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        connection.request("GET", path, headers={"Connection": "close", **headers})
        sock = connection.sock
        response = connection.getresponse()
        status = response.status
        with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
            sock.settimeout(_READ_SECONDS)
            end, left = time.monotonic() + _READ_SECONDS, _READ_BYTES
            while left > 0 and time.monotonic() < end and (data := response.read1(left)):
                left -= len(data)
    except (OSError, http.client.HTTPException):
        pass
    finally:
        connection.close()
    tell("refused" if status is None else "reached")
    return status
