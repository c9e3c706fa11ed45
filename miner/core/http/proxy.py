"""Proxies from the environment: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, and NO_PROXY for exceptions.

Read as curl and the usual HTTP libraries read them, in lower case or upper. Nothing on this machine is ever reached
through a proxy, whatever NO_PROXY says.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import os
import socket
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from miner.core._typing import override
from miner.core.http.transport_errors import ConnectError

_MAX_HEAD_BYTES = 64 * 1024
_RESOLVE_SECONDS = 2.0
"""Enough for a name of this machine; one that only the proxy can resolve must not wait for the resolver's timeout."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy."""

    host: str
    port: int
    variable: str
    """The environment variable that names it."""
    authorization_line: bytes = field(repr=False)
    """Header line with user and password; empty without."""

    @override
    def __str__(self) -> str:
        return f"the proxy {self.host}:{self.port} ({self.variable})"

    def hint(self, host: str) -> str:
        """What an operator can do when it does not reach a host."""
        return f"Set NO_PROXY={host} to connect directly, or fix {self.variable}."


def basic_auth(username: str, password: str | None) -> str:
    """Return the value of an Authorization header for a URL's (percent-encoded) user and password."""
    return "Basic " + base64.b64encode(f"{unquote(username)}:{unquote(password or '')}".encode()).decode()


async def proxy_for(host: str, port: int, *, tls: bool) -> Proxy | None:
    """Return the proxy through which a host is reached; None for a direct connection.

    Raises:
        ConnectError: the environment names one that cannot be used.
    """
    found = _variable("https_proxy" if tls else "http_proxy") or _variable("all_proxy")
    if found is None or _in_no_proxy(host, port) or await _is_this_machine(host):
        return None
    variable, value = found
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        proxy_host, proxy_port = parts.hostname, parts.port or 80
    except ValueError:
        proxy_host, proxy_port = None, 0
    if not proxy_host or parts.scheme != "http":
        raise ConnectError(
            f"{variable} is not a usable proxy", retryable=False,
            hint=f"Only proxies at http://host:port are supported. Set NO_PROXY={host} to connect directly.",
        )  # fmt: skip
    line = b""
    if parts.username is not None:
        line = f"Proxy-Authorization: {basic_auth(parts.username, parts.password)}\r\n".encode()
    return Proxy(proxy_host, proxy_port, variable, line)


def _variable(name: str) -> tuple[str, str] | None:
    for variable in (name, name.upper()):
        value = os.environ.get(variable)
        # HTTP_PROXY may come from a client's header `Proxy` where this runs as a CGI script.
        if value and not (variable == "HTTP_PROXY" and "REQUEST_METHOD" in os.environ):
            return variable, value
    return None


def _in_no_proxy(host: str, port: int) -> bool:
    """Whether NO_PROXY lists the host: names with their subdomains, addresses, networks, each with or without port."""
    listed = _variable("no_proxy")
    host = host.lower().rstrip(".")
    address = _parse_ip(host)
    for entry in listed[1].lower().split(",") if listed is not None else ():
        name = entry.strip()
        if name == "*":
            return True
        if address is not None and "/" in name:
            try:
                if address in ipaddress.ip_network(name, strict=False):
                    return True
            except ValueError:
                continue
        bare, colon, its_port = name.rpartition(":")
        if colon and its_port.isdecimal() and _parse_ip(name) is None:
            if int(its_port) != port:
                continue
            name = bare
        name = name.strip("[]").removeprefix("*").lstrip(".")
        if name and (host == name or host.endswith(f".{name}") or (address is not None and address == _parse_ip(name))):
            return True
    return False


async def _is_this_machine(host: str) -> bool:
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    address = _parse_ip(name)
    if address is not None:
        return _is_loopback(address)
    try:
        async with asyncio.timeout(_RESOLVE_SECONDS):
            infos = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # a TimeoutError is an OSError
        return False  # perhaps only the proxy can resolve it
    found = [_parse_ip(str(info[4][0])) for info in infos]
    return bool(found) and all(address is not None and _is_loopback(address) for address in found)


def _is_loopback(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    address = mapped or address
    return address.is_loopback or address.is_unspecified


def _parse_ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.strip("[]").partition("%")[0])
    except ValueError:
        return None


async def open_tunnel(loop: asyncio.AbstractEventLoop, sock: socket.socket, proxy: Proxy, host: str, port: int) -> None:
    """Open a tunnel with CONNECT: from then on the socket is connected to the host itself.

    Raises:
        ConnectError: the proxy refuses.
    """
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    target = where.encode("idna" if not where.isascii() else "ascii")
    await loop.sock_sendall(
        sock,
        b"CONNECT %b HTTP/1.1\r\nHost: %b\r\nUser-Agent: miner\r\n%b\r\n" % (target, target, proxy.authorization_line),
    )
    head = b""
    while b"\r\n\r\n" not in head:
        piece = await loop.sock_recv(sock, 4096)
        head += piece
        if not piece or len(head) > _MAX_HEAD_BYTES:
            raise ConnectError(f"{proxy} opened no tunnel", hint=proxy.hint(host))
    status = head.split(b"\r\n", 1)[0].split(b" ")[1:2]
    if not status or not head.startswith(b"HTTP/1.") or not status[0].startswith(b"2"):
        response = f"HTTP {status[0].decode()}" if status and status[0].isdigit() else "invalid response"
        raise ConnectError(f"{proxy} opened no tunnel ({response})", hint=proxy.hint(host))
