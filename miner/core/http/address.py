"""Where an engine is: its address as a connection and as the head of each request."""

from __future__ import annotations

import asyncio
import base64
import errno
import ipaddress
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, unquote, urlsplit

from miner.core.http.connection import Connection
from miner.core.http.proxy import Proxy, open_tunnel
from miner.core.http.tls import untrusted_hint
from miner.core.http.transport_errors import ConnectError, InvalidAddressError

__all__ = ["ServerAddress", "connect"]

_NEXT_ADDRESS_SECONDS = 0.25
"""As RFC 8305 recommends."""

_P = TypeVar("_P", bound=Connection)


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """A server and the base path of its API."""

    host: str
    port: int
    tls: bool
    base: bytes
    """Path before that of a request, such as /v1."""
    fields: bytes = field(repr=False)
    """Header lines of every request, our key among them."""
    proxy: Proxy | None = None

    def through(self, proxy: Proxy) -> ServerAddress:
        """The same by way of a proxy. Without TLS the proxy reads each request, and is told the whole address; with it,
        `connect` has it open a tunnel.
        """
        if self.tls:
            return replace(self, proxy=proxy)
        host = self.fields.partition(b"\r\n")[0].removeprefix(b"Host: ")
        return replace(
            self, proxy=proxy, base=b"http://%b%b" % (host, self.base), fields=self.fields + proxy.authorization
        )

    @classmethod
    def of(cls, url: str, api_key: str | None, *, keep: bool) -> ServerAddress:
        """Read an address such as http://localhost:8000/v1. It may carry a user and a password.

        Raises:
            InvalidAddressError: it is none.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
            host = parts.hostname
        except ValueError as error:
            raise InvalidAddressError(str(error)) from None
        if parts.scheme not in ("http", "https") or not host or port == 0:
            raise InvalidAddressError("not http://host:port")
        if "?" in url or "#" in url:
            raise InvalidAddressError("a query or a fragment is not sent: it must end with its path")
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
            raise InvalidAddressError("a control character in the address or in the key")
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
    loop: asyncio.AbstractEventLoop, address: ServerAddress, unix_socket: Path | None, make: Callable[[], _P],
    *, tls: ssl.SSLContext | None, timeout: float,
) -> _P:  # fmt: skip
    """A connection to the address, or to a socket in its place; with TLS if there is a context for it.

    Args:
        timeout: seconds for all of it: the name, the addresses, a proxy's tunnel, TLS.

    Raises:
        ConnectError: there is none; InvalidAddressError: no such host can be.
    """
    proxy = address.proxy
    host, port = (address.host, address.port) if proxy is None else (proxy.host, proxy.port)
    try:
        async with asyncio.timeout(timeout):
            if unix_socket is not None:
                return (await loop.create_unix_connection(make, str(unix_socket)))[1]
            sock = await _connected(loop, host, port)
            try:
                if proxy is not None and address.tls:
                    await open_tunnel(loop, sock, proxy, address.host, address.port)
            except BaseException:
                sock.close()
                raise
            name = address.host if tls is not None else None
            return (await loop.create_connection(make, sock=sock, ssl=tls, server_hostname=name))[1]
    except ConnectError:
        raise
    except TimeoutError:
        why, hint = "timed out", None
    except socket.gaierror:
        why, hint = f"no such host {host!r}", None
    except ssl.SSLCertVerificationError as error:
        why, hint = f"no TLS: {error.verify_message}", untrusted_hint()
    except ssl.SSLError as error:
        why, hint = f"no TLS: {error.reason or error}", None
    except OSError as error:
        why, hint = _reason(error), None
    except UnicodeError as error:
        raise InvalidAddressError(f"no host name: {error}") from None
    if proxy is not None and hint is None:
        why, hint = f"by way of {proxy}: {why}", proxy.hint(address.host)
    raise ConnectError(why, hint=hint)


async def _connected(loop: asyncio.AbstractEventLoop, host: str, port: int) -> socket.socket:
    """A socket to the first of a host's addresses that takes it. One that says nothing holds the others up for a
    quarter of a second, not for the whole timeout.
    """
    from aiohappyeyeballs import start_connection

    if _is_number(host):
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    else:  # a name, which takes a thread to look up
        infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return await start_connection(infos, happy_eyeballs_delay=_NEXT_ADDRESS_SECONDS, loop=loop)


def _is_number(host: str) -> bool:
    """Whether a host is an address itself (with an IPv6 zone or not), and no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _reason(error: OSError) -> str:
    # Several addresses of one host give one error with all of theirs in its text.
    if error.errno == errno.ECONNREFUSED or "Connect call failed" in str(error):
        return "connection refused"
    return error.strerror or str(error)
