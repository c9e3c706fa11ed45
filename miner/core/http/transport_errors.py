"""Why there is no connection, before there is a request to speak of."""

from __future__ import annotations

__all__ = ["ConnectError", "InvalidAddressError"]


class InvalidAddressError(ValueError):
    """It names no server."""


class ConnectError(ConnectionError):
    """There is no connection to the server; the text says why."""

    def __init__(self, reason: str, *, hint: str | None = None, retryable: bool = True) -> None:
        super().__init__(reason)
        self.hint = hint
        """What to do, where that is not what is always said of this server."""
        self.retryable = retryable
