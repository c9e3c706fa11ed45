"""An answer that sends us elsewhere: never followed, since a POST would become a GET and a key would go along."""

from __future__ import annotations

from urllib.parse import urlsplit

from miner.core.http.errors import Upstream
from miner.errors import BackendProtocolError

__all__ = ["redirected"]


def redirected(status: int, location: str | None, upstream: Upstream) -> BackendProtocolError:
    """The error for a status from 300 to 399. No engine's API redirects: something else is at the address.

    Args:
        location: the answer's header. Of it the error shows the host alone: the rest may hold secrets.
    """
    where = f"{upstream.backend} at {upstream.shown_url}"
    return BackendProtocolError(
        f"{where} redirects to {_host(location)} (HTTP {status}), which is not followed.",
        hint=f"Set {upstream.address_setting} to the engine's own address.",
        **upstream.details(status),
    )


def _host(location: str | None) -> str:
    try:
        parts = urlsplit(location or "")
    except ValueError:
        return "what is no address"
    host = parts.netloc.rpartition("@")[2]
    if not host:
        return "another path there"
    scheme = parts.scheme if parts.scheme in ("http", "https") else ""
    shown = f"{scheme}://{host}" if scheme else host
    return shown if shown.isprintable() and len(shown) <= 260 else "what is no address"
