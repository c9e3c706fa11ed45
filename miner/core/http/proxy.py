"""Proxies that the environment names: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, and NO_PROXY for those that need none.

As curl and the usual HTTP libraries have it, in lower case or upper. Nothing on this machine is ever reached through a
proxy, whatever NO_PROXY says.
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

__all__ = ["Proxy", "open_tunnel", "proxy_for"]

_MAX_HEAD_BYTES = 64 * 1024
_LOOK_UP_SECONDS = 2.0
"""A name of this machine's own needs no more; one that only the proxy knows must not wait for a resolver's patience."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy."""

    host: str
    port: int
    variable: str
    """That names it."""
    authorization: bytes = field(repr=False)
    """A header line with our name and password there; empty without."""

    @override
    def __str__(self) -> str:
        return f"the proxy {self.host}:{self.port} ({self.variable})"

    def hint(self, host: str) -> str:
        """What to do where it does not help."""
        return f"Set NO_PROXY={host} to go there directly, or mend {self.variable}."


async def proxy_for(host: str, port: int, *, tls: bool) -> Proxy | None:
    """The proxy on the way to this host, if there is one.

    Raises:
        ConnectError: the environment names one that cannot be used.
    """
    found = _variable("https_proxy" if tls else "http_proxy") or _variable("all_proxy")
    if found is None or _goes_directly(host, port) or await _is_this_machine(host):
        return None
    variable, value = found
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        proxy_host, proxy_port = parts.hostname, parts.port or 80
    except ValueError:
        proxy_host, proxy_port = None, 0
    if not proxy_host or parts.scheme != "http":
        raise ConnectError(
            f"{variable} names no proxy that can be used", retryable=False,
            hint=f"Only proxies at http://host:port are spoken to. Set NO_PROXY={host} to go there directly.",
        )  # fmt: skip
    authorization = b""
    if parts.username is not None:
        said = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = b"Proxy-Authorization: Basic %b\r\n" % base64.b64encode(said.encode())
    return Proxy(proxy_host, proxy_port, variable, authorization)


def _variable(name: str) -> tuple[str, str] | None:
    for variable in (name, name.upper()):
        value = os.environ.get(variable)
        # HTTP_PROXY may come from a client's header `Proxy` where this runs as a CGI script.
        if value and not (variable == "HTTP_PROXY" and "REQUEST_METHOD" in os.environ):
            return variable, value
    return None


def _goes_directly(host: str, port: int) -> bool:
    """Whether NO_PROXY lists it: names with all that is below them, addresses, networks, each perhaps with a port."""
    listed = _variable("no_proxy")
    host = host.lower().rstrip(".")
    address = _address(host)
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
        if colon and its_port.isdecimal() and _address(name) is None:
            if int(its_port) != port:
                continue
            name = bare
        name = name.strip("[]").removeprefix("*").lstrip(".")
        if name and (host == name or host.endswith(f".{name}") or (address is not None and address == _address(name))):
            return True
    return False


async def _is_this_machine(host: str) -> bool:
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    address = _address(name)
    if address is not None:
        return _is_loopback(address)
    try:
        async with asyncio.timeout(_LOOK_UP_SECONDS):
            infos = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # a TimeoutError is an OSError
        return False  # behind a proxy, names may be the proxy's alone to resolve
    found = [_address(str(info[4][0])) for info in infos]
    return bool(found) and all(address is not None and _is_loopback(address) for address in found)


def _is_loopback(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    address = mapped or address
    return address.is_loopback or address.is_unspecified


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.strip("[]").partition("%")[0])
    except ValueError:
        return None


async def open_tunnel(loop: asyncio.AbstractEventLoop, sock: socket.socket, proxy: Proxy, host: str, port: int) -> None:
    """Have the proxy pass on what is sent: the socket then speaks with the host itself.

    Raises:
        ConnectError: it does not.
    """
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    target = where.encode("idna" if not where.isascii() else "ascii")
    await loop.sock_sendall(
        sock, b"CONNECT %b HTTP/1.1\r\nHost: %b\r\nUser-Agent: miner\r\n%b\r\n" % (target, target, proxy.authorization)
    )
    head = b""
    while b"\r\n\r\n" not in head:
        piece = await loop.sock_recv(sock, 4096)
        head += piece
        if not piece or len(head) > _MAX_HEAD_BYTES:
            raise ConnectError(f"{proxy} opens no way there", hint=proxy.hint(host))
    status = head.split(b"\r\n", 1)[0].split(b" ")[1:2]
    if not status or not head.startswith(b"HTTP/1.") or not status[0].startswith(b"2"):
        said = status[0].decode("latin-1") if status and status[0].isdigit() else "no HTTP"
        raise ConnectError(f"{proxy} opens no way there (HTTP {said})", hint=proxy.hint(host))
