"""Exceptions of the transport.

::

    OSError
      ConnectionError
        ConnectError               no connection was made
        ServerDisconnectedError    the connection ended before the response did
    ValueError
      FramingError                 the bytes are not HTTP, or no message where one must be
      InvalidAddressError          the address names no server
    LocallyClosedError             the connection was closed on this side

`map_errors` (errors.py) converts them, and TimeoutError, to errors of miner.
"""

from __future__ import annotations


class ConnectError(ConnectionError):
    """No connection to the server could be made; the text says why.

    Args:
        hint: what an operator can do, where that differs from the upstream's `unreachable_hint`.
    """

    def __init__(self, reason: str, *, hint: str | None = None, retryable: bool = True) -> None:
        super().__init__(reason)
        self.hint = hint
        self.retryable = retryable


class ServerDisconnectedError(ConnectionError):
    """The connection ended before the response did."""


class FramingError(ValueError):
    """The bytes are not HTTP, or hold no message where one must be."""


class InvalidAddressError(ValueError):
    """The address names no server."""


class LocallyClosedError(Exception):
    """The connection was closed on this side, by its owner."""
