"""The listening sockets, and the check that no other machine can reach them without a key."""

from __future__ import annotations

import socket
from typing import Any

from miner.errors import ConfigError
from miner.gateway.auth.key_store import has_keys
from miner.gateway.client_address import is_loopback
from miner.gateway.settings import GatewaySettings

BACKLOG = 1024
"""Connections that may wait to be accepted."""
_CHOOSE_ANOTHER = "Choose another with --host and --port (MINER_SERVE_HOST, MINER_SERVE_PORT)."


def refuse_open_address(settings: GatewaySettings) -> None:
    """Refuse an address that other machines can reach without API keys, unless the settings allow it.

    Raises:
        ConfigError: it is not an address of this machine; or others can reach it, and there are no API keys.
    """
    try:
        _resolved(settings)
    except OSError as error:
        raise ConfigError(
            f"{settings.serve_host!r} is not an address of this machine: {error.strerror or error}.",
            operator_hint=_CHOOSE_ANOTHER,
        ) from None
    if settings.serve_allow_unauthenticated or is_loopback(settings.serve_host) or has_keys(settings):
        return
    raise ConfigError(
        f"{settings.serve_host} can be reached by others, and there are no API keys.",
        operator_hint="Create one: export MINER_API_KEYS=$(python -c 'import secrets; print(secrets.token_urlsafe())')",
    )


def listen(settings: GatewaySettings) -> list[socket.socket]:
    """Listening sockets: one for each address of the host.

    Raises:
        ConfigError: the address or the port is not available.
    """
    host, port = settings.serve_host, settings.serve_port
    sockets: list[socket.socket] = []
    try:
        found = _resolved(settings)
        # Several addresses cannot share a port that the system chooses.
        for family, kind, proto, _, address in found[:1] if port == 0 else dict.fromkeys(found):
            sock = _bound(family, kind, proto, address)
            sockets.append(sock)
            _limit_write_time(sock, settings.serve_write_timeout)
            sock.listen(BACKLOG)
            sock.setblocking(False)
    except OSError as error:
        for sock in sockets:
            sock.close()
        raise ConfigError(
            f"Cannot listen on {host}:{port}: {error.strerror or error}.", operator_hint=_CHOOSE_ANOTHER
        ) from None
    return sockets


def _resolved(settings: GatewaySettings) -> list[Any]:
    return socket.getaddrinfo(
        settings.serve_host, settings.serve_port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )


def _bound(family: int, kind: int, proto: int, address: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, kind, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


def _limit_write_time(sock: socket.socket, seconds: float) -> None:
    """Connections accepted from this socket are closed when the client acknowledges nothing for so long. Linux does it:
    a non-streaming response is still being sent when no code of ours watches it any more.
    """
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is not None:
        sock.setsockopt(socket.IPPROTO_TCP, option, max(1, min(int(seconds * 1000), 2**31 - 1)))


def url_of(sock: socket.socket) -> str:
    """The socket's address as a URL."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
