"""Ports of this machine that no other test, server or connection gets meanwhile."""

from __future__ import annotations

import socket

__all__ = ["closed_port", "keep", "reserved"]

_MOST = 64
"""Of ports that stay reserved: no test uses more at once, and each is an open file."""
_kept: list[socket.socket] = []


def reserved(port: int = 0) -> socket.socket:
    """A socket that has the port and does not listen; 0: one that the system chooses.

    Until it is closed, connections to the port are refused, and the system gives it to nobody who takes any. Who asks
    for this very port gets it, with SO_REUSEADDR: as servers do.
    """
    sock = socket.socket()
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))
    except OSError:
        sock.close()
        raise
    return sock


def keep(sock: socket.socket) -> None:
    """Leave a port reserved until many others are."""
    _kept.append(sock)
    if len(_kept) > _MOST:
        _kept.pop(0).close()


def closed_port() -> int:
    """A port on which nothing listens; the caller may start a server there. It stays reserved after the test."""
    sock = reserved()
    keep(sock)
    return int(sock.getsockname()[1])
