"""The address of an engine: how to connect to it, and the head of each request to it."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, urlsplit

from miner.core.http.connection import Connection
from miner.core.http.proxy import Proxy, basic_auth, open_tunnel
from miner.core.http.tls import certificate_hint
from miner.core.http.transport_errors import ConnectError, InvalidAddressError

_HAPPY_EYEBALLS_DELAY = 0.25
"""Seconds, as RFC 8305 recommends."""

_NOT_TLS = (
    "WRONG_VERSION_NUMBER",
    "RECORD_LAYER_FAILURE",
    "HTTP_REQUEST",
    "UNKNOWN_PROTOCOL",
    "PACKET_LENGTH_TOO_LONG",
)
"""What OpenSSL says where a server answers in plain text."""
_SPEAKS_HTTP = "The server there speaks http, not https: begin its address with http://."
_JSON = b"Content-Type: application/json"
_P = TypeVar("_P", bound=Connection)


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """A server and the base path of its API."""

    host: str
    port: int
    tls: bool
    base_path: bytes
    """Prefix of each request's path, such as /v1; behind an HTTP proxy the full URL up to there."""
    header_lines: bytes = field(repr=False)
    """Header lines of every request, the API key among them."""
    proxy: Proxy | None = None

    def through(self, proxy: Proxy) -> ServerAddress:
        """Return the same address behind a proxy. Without TLS the proxy reads each request and needs the full URL;
        with it, `connect` opens a tunnel.
        """
        if self.tls:
            return replace(self, proxy=proxy)
        host = self.header_lines.partition(b"\r\n")[0].removeprefix(b"Host: ")
        base_path = b"http://%b%b" % (host, self.base_path)
        return replace(
            self, proxy=proxy, base_path=base_path, header_lines=self.header_lines + proxy.authorization_line
        )

    @classmethod
    def parse(cls, url: str, api_key: str | None, *, keep_alive: bool) -> ServerAddress:
        """Parse a URL such as http://localhost:8000/v1, which may carry a user and a password.

        Raises:
            InvalidAddressError: it is not such a URL.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
            host = parts.hostname
        except ValueError as error:
            raise InvalidAddressError(str(error)) from None
        if parts.scheme not in ("http", "https") or not host or port == 0:
            raise InvalidAddressError("expected http://host:port")
        if "?" in url or "#" in url:
            raise InvalidAddressError("it must not have a query or a fragment")
        tls = parts.scheme == "https"
        lines = [
            f"Host: {parts.netloc.rpartition('@')[2]}", _JSON.decode(), "Accept: */*",
            "Accept-Encoding: identity", "User-Agent: miner",
        ]  # fmt: skip
        # A request has one Authorization header: the key is more explicit than a user in the URL.
        if api_key:
            lines.append(f"Authorization: Bearer {api_key}")
        elif parts.username is not None:
            lines.append(f"Authorization: {basic_auth(parts.username, parts.password)}")
        if not keep_alive:
            lines.append("Connection: close")
        if any(ord(letter) < 32 or ord(letter) == 127 for line in lines for letter in line):
            raise InvalidAddressError("a control character in the address or in the API key")
        base_path = quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~-._").encode()
        return cls(host, port or (443 if tls else 80), tls, base_path, "\r\n".join(lines).encode() + b"\r\n")

    def request(
        self, method: str, path: str, body: bytes | None, *, root: bool, content_type: str | None = None,
        more_lines: bytes = b"",
    ) -> bytes:  # fmt: skip
        """Return the bytes of a request. `root`: the path starts before the base path's `/v1`; `content_type`: of the
        body, if it is not JSON; `more_lines`: header lines of a request with a body.
        """
        base_path = self.base_path.removesuffix(b"/v1") if root else self.base_path
        if body is None:
            return b"%b %b%b HTTP/1.1\r\n%b\r\n" % (method.encode(), base_path, path.encode(), self.header_lines)
        lines = self.header_lines
        if content_type is not None:
            lines = lines.replace(_JSON, f"Content-Type: {content_type}".encode(), 1)
        if more_lines:
            lines += more_lines
        return b"%b %b%b HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (
            method.encode(), base_path, path.encode(), lines, len(body), body,
        )  # fmt: skip

    def chunked_request(self, method: str, path: str) -> bytes:
        """Return the head of a request whose body follows in chunks."""
        return b"%b %b%b HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n\r\n" % (
            method.encode(), self.base_path, path.encode(), self.header_lines,
        )  # fmt: skip


async def connect(
    loop: asyncio.AbstractEventLoop, address: ServerAddress, unix_socket: Path | None, make: Callable[[], _P],
    *, tls: ssl.SSLContext | None, timeout: float,
) -> _P:  # fmt: skip
    """Connect to the address, or to a Unix socket in its place, and return the Protocol that `make` creates.

    Args:
        tls: context for TLS; None: without.
        timeout: seconds for name resolution, all addresses, a proxy's tunnel and TLS together.

    Raises:
        ConnectError: the connection cannot be made.
        InvalidAddressError: the host name is malformed.
    """
    proxy = address.proxy
    host, port = (address.host, address.port) if proxy is None else (proxy.host, proxy.port)
    try:
        async with asyncio.timeout(timeout):
            if unix_socket is not None:
                return (await loop.create_unix_connection(make, str(unix_socket)))[1]
            sock = await _connect_socket(loop, host, port)
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
        reason, hint = "timed out", None
    except socket.gaierror:
        reason, hint = f"unknown host {host!r}", None
    except ssl.SSLCertVerificationError as error:
        reason, hint = f"TLS failed: {error.verify_message}", certificate_hint()
    except ssl.SSLError as error:
        plain = error.reason in _NOT_TLS
        reason, hint = f"TLS failed: {error.reason or error}", _SPEAKS_HTTP if plain else None
    except OSError as error:
        reason, hint = _reason(error), None
    except UnicodeError as error:
        raise InvalidAddressError(f"invalid host name: {error}") from None
    if proxy is not None and hint is None:
        reason, hint = f"through {proxy}: {reason}", proxy.hint(address.host)
    raise ConnectError(reason, hint=hint)


async def _connect_socket(loop: asyncio.AbstractEventLoop, host: str, port: int) -> socket.socket:
    """Return a socket to the first of a host's addresses that accepts (Happy Eyeballs, RFC 8305)."""
    from aiohappyeyeballs import start_connection

    if _is_ip_address(host):
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    else:  # a name, resolved in a thread
        infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return await start_connection(infos, happy_eyeballs_delay=_HAPPY_EYEBALLS_DELAY, loop=loop)


def _is_ip_address(host: str) -> bool:
    """Whether a host is an IP address, with an IPv6 zone or not, and not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _reason(error: OSError) -> str:
    # The attempts at several addresses of one host raise one error, with all of their texts.
    if error.errno == errno.ECONNREFUSED or "Connect call failed" in str(error):
        return "connection refused"
    return error.strerror or str(error)
