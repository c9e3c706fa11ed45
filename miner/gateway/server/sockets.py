"""Where the gateway listens: addresses, sockets, and who may reach them."""

from __future__ import annotations

import socket
from typing import Any

from miner.errors import ConfigError
from miner.gateway.addresses import is_loopback
from miner.gateway.auth.key_store import has_keys
from miner.gateway.settings import GatewaySettings

__all__ = ["BACKLOG", "listen", "refuse_open_address", "shown"]

BACKLOG = 1024
"""Connections that may wait to be accepted."""
_ANOTHER = "Choose another with --host and --port (MINER_SERVE_HOST, MINER_SERVE_PORT)."


def refuse_open_address(settings: GatewaySettings) -> None:
    """Make sure that nobody is let in from outside by oversight.

    Raises:
        ConfigError: it is no address; or others can reach it, and there are no keys.
    """
    try:
        _resolved(settings)
    except OSError as error:
        raise ConfigError(
            f"{settings.serve_host!r} is no address of this machine: {error.strerror or error}.", hint=_ANOTHER
        ) from None
    if settings.serve_allow_unauthenticated or is_loopback(settings.serve_host) or has_keys(settings):
        return
    raise ConfigError(
        f"{settings.serve_host} can be reached by others, and there are no keys.",
        hint="Make one: export MINER_API_KEYS=$(python -c 'import secrets; print(secrets.token_urlsafe())')",
    )


def listen(settings: GatewaySettings) -> list[socket.socket]:
    """Sockets on the address, listening: one on each of its forms.

    Raises:
        ConfigError: the address or the port cannot be had.
    """
    host, port = settings.serve_host, settings.serve_port
    made: list[socket.socket] = []
    try:
        found = _resolved(settings)
        # Several addresses cannot share a port that the system is to choose.
        for family, kind, proto, _, address in found[:1] if port == 0 else dict.fromkeys(found):
            one = _bound(family, kind, proto, address)
            made.append(one)
            _bound_writes(one, settings.serve_write_timeout)
            one.listen(BACKLOG)
            one.setblocking(False)
    except OSError as error:
        for one in made:
            one.close()
        raise ConfigError(
            f"{host}:{port} cannot be listened on: {error.strerror or error}.",
            hint=_ANOTHER,
        ) from None
    return made


def _resolved(settings: GatewaySettings) -> list[Any]:
    return socket.getaddrinfo(
        settings.serve_host, settings.serve_port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )


def _bound(family: int, kind: int, proto: int, address: tuple[object, ...]) -> socket.socket:
    one = socket.socket(family, kind, proto)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(address)
    except OSError:
        one.close()
        raise
    return one


def _bound_writes(one: socket.socket, seconds: float) -> None:
    """Connections taken from this socket end when the other side takes nothing of what was sent for so long. The
    system sees to it (Linux does): an answer in one piece is written when nobody of ours watches it any more.
    """
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is not None:
        one.setsockopt(socket.IPPROTO_TCP, option, max(1, min(int(seconds * 1000), 2**31 - 1)))


def shown(one: socket.socket) -> str:
    """The socket's address as a URL."""
    host, port = one.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
