"""Where an engine is: its address as a connection and as the head of each request."""

from __future__ import annotations

import asyncio
import base64
import errno
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, unquote, urlsplit

from miner.core.transport.connection import Connection

__all__ = ["Address", "BadAddressError", "NotConnectedError", "connect"]

_CONNECT_SECONDS = 10.0

_P = TypeVar("_P", bound=Connection)


class BadAddressError(ValueError):
    """It names no server."""


class NotConnectedError(ConnectionError):
    """There is no connection to the server; the text says why."""


@dataclass(frozen=True, slots=True)
class Address:
    """A server and the base path of its API."""

    host: str
    port: int
    tls: bool
    base: bytes
    """Path before that of a request, such as /v1."""
    fields: bytes = field(repr=False)
    """Header lines of every request, our key among them."""

    @classmethod
    def of(cls, url: str, api_key: str | None, *, keep: bool) -> Address:
        """Read an address such as http://localhost:8000/v1. It may carry a user and a password.

        Raises:
            BadAddressError: it is none.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
            host = parts.hostname
        except ValueError as error:
            raise BadAddressError(str(error)) from None
        if parts.scheme not in ("http", "https") or not host or port == 0:
            raise BadAddressError("not http://host:port")
        if "?" in url or "#" in url:
            raise BadAddressError("a query or a fragment is not sent: it must end with its path")
        tls = parts.scheme == "https"
        lines = [
            f"Host: {parts.netloc.rpartition('@')[2]}", "Content-Type: application/json", "Accept: */*",
            "Accept-Encoding: identity", "User-Agent: miner",
        ]  # fmt: skip
        # Two ways to say who we are cannot be sent at once: the key is the more explicit one.
        if api_key:
            lines.append(f"Authorization: Bearer {api_key}")
        elif parts.username is not None:
            said = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            lines.append(f"Authorization: Basic {base64.b64encode(said.encode()).decode()}")
        if not keep:
            lines.append("Connection: close")
        if any(ord(letter) < 32 or ord(letter) == 127 for line in lines for letter in line):
            raise BadAddressError("a control character in the address or in the key")
        base = quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~-._")
        return cls(host, port or (443 if tls else 80), tls, base.encode(), "\r\n".join(lines).encode() + b"\r\n")

    def request(self, method: str, path: str, body: bytes | None, *, root: bool) -> bytes:
        """A whole request. `root`: the path begins before the base's `/v1`."""
        base = self.base.removesuffix(b"/v1") if root else self.base
        if body is None:
            return b"%b %b%b HTTP/1.1\r\n%b\r\n" % (method.encode(), base, path.encode(), self.fields)
        return b"%b %b%b HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (
            method.encode(), base, path.encode(), self.fields, len(body), body,
        )  # fmt: skip


async def connect(
    loop: asyncio.AbstractEventLoop, address: Address, unix_socket: Path | None, make: Callable[[], _P],
    *, tls: ssl.SSLContext | None,
) -> _P:  # fmt: skip
    """A connection to the address, or to a socket in its place; with TLS if there is a context for it.

    Raises:
        NotConnectedError: there is none; BadAddressError: no such host can be.
    """
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            if unix_socket is not None:
                return (await loop.create_unix_connection(make, str(unix_socket)))[1]
            return (await loop.create_connection(make, address.host, address.port, ssl=tls))[1]
    except TimeoutError:
        raise NotConnectedError("timed out") from None
    except socket.gaierror as error:
        raise NotConnectedError(f"no such host {address.host!r}") from error
    except ssl.SSLError as error:
        reason = getattr(error, "verify_message", None) or error.reason or str(error)
        raise NotConnectedError(f"no TLS: {reason}") from error
    except OSError as error:
        raise NotConnectedError(_reason(error)) from error
    except UnicodeError as error:
        raise BadAddressError(f"no host name: {error}") from None


def _reason(error: OSError) -> str:
    # Several addresses of one host give one error with all of theirs in its text.
    if error.errno == errno.ECONNREFUSED or "Connect call failed" in str(error):
        return "connection refused"
    return error.strerror or str(error)
