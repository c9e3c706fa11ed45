"""Hosts: web pages that a user happens to visit cannot use a gateway on that user's machine.

A page elsewhere can make the browser call any address. Three things stop it: on loopback, and wherever the operator has
listed names, the Host header must be one of them (a page whose own name was rebound to 127.0.0.1 sends that name), an
Origin that was not asked for is refused (a plain form needs no permission to send), and no page may read an answer
unless its origin is in the settings.
"""

from __future__ import annotations

import re
import socket
from urllib.parse import urlsplit

from aiohttp import web

from miner.core._typing import override
from miner.errors import ConfigError
from miner.gateway.addresses import is_loopback
from miner.gateway.context import RequestContext
from miner.gateway.errors import RefusedError
from miner.gateway.middleware.base import Middleware
from miner.gateway.middleware.origins import Origins
from miner.gateway.settings import GatewaySettings

__all__ = ["Hosts", "is_own_name", "preflight"]

_EXPOSED = "Request-Id, Retry-After, X-Miner-Ignored-Params, X-Request-Id"
_METHODS = "GET, HEAD, POST"
_PREFLIGHT_SECONDS = 600
_PRIVATE_ZONES = (".localhost", ".local", ".internal")
"""As Ollama has them."""
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?"
_ENTRY = re.compile(
    rf"(?:(?P<sub>\*\.)?(?P<host>{_LABEL}(?:\.{_LABEL})*\.?)|\[(?P<six>[0-9a-f:.]+)\])(?::(?P<port>\d{{1,5}}))?"
)


class Hosts(Middleware):
    """Checks Host and Origin, and says which pages may read the answers."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._local = is_loopback(settings.serve_host)
        names = _listed(settings.serve_allowed_hosts)
        self._checked = self._local or bool(names)
        self._hosts = [_host_pattern(name) for name in names]
        self._origins = Origins(_listed(settings.serve_cors_origins))
        self._machine = socket.gethostname().lower()
        self._seen: set[str] = set()
        """Host headers found good, so that almost none is taken apart twice; at most 64."""

    @override
    def check(self, context: RequestContext) -> None:
        headers = context.request.headers
        host = headers.get("Host")
        if self._checked and host not in self._seen:
            self._check_host(host, alone=len(headers.getall("Host", ())) < 2)
        origin = headers.get("Origin")
        if origin is not None:
            self._check_origin(context, origin, host)

    def _check_host(self, host: str | None, *, alone: bool) -> None:
        if host is None and not self._hosts:
            return  # HTTP/1.0: no browser sends such a thing
        known = host is not None and alone and (is_own_name(host) or self._is_known(host))
        if not known:
            names = "the names of its own machine" if not self._hosts else "names that are on its list"
            raise RefusedError(
                403, "host_not_allowed", f"This server answers only to {names}.",
                hint="Its operator can add others with MINER_SERVE_ALLOWED_HOSTS.",
            )  # fmt: skip
        if host is not None and len(self._seen) < 64:
            self._seen.add(host)

    def _is_known(self, host: str) -> bool:
        """Whether the name is on the list, or on loopback one that no page of the internet can have: this machine's, or
        one of a private zone, such as `host.docker.internal`. None of these gives the admin right.
        """
        name = _name_of(host)
        if self._local and (name == self._machine or name.endswith(_PRIVATE_ZONES)):
            return True
        port = _port_of(host)
        return any(pattern.fullmatch(name) and (not ports or port in ports) for pattern, ports in self._hosts)

    def _check_origin(self, context: RequestContext, origin: str, host: str | None) -> None:
        if host is not None and origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}"):
            return  # a page of ours
        anybody = self._origins.any
        if not self._origins.allow(origin):
            raise RefusedError(
                403, "origin_not_allowed", "Web pages of this origin may not call this server.",
                hint="Its operator can allow them with MINER_SERVE_CORS_ORIGINS.",
            )  # fmt: skip
        told = {"Access-Control-Allow-Origin": "*" if anybody else origin, "Access-Control-Expose-Headers": _EXPOSED}
        if not anybody:
            told["Vary"] = "Origin"
        context.extra_headers.update(told)


async def preflight(context: RequestContext) -> web.StreamResponse:
    """What a browser asks before it sends another origin's request; served only where such are allowed."""
    headers = context.request.headers
    allowed = context.extra_headers.get("Access-Control-Allow-Origin")
    if allowed is None or "Access-Control-Request-Method" not in headers:
        raise RefusedError(405, "method_not_allowed", "OPTIONS is only for the preflight of another origin's page.")
    context.status = 204
    told = context.headers()
    del told["Content-Type"]
    told["Access-Control-Allow-Methods"] = _METHODS
    told["Access-Control-Max-Age"] = str(_PREFLIGHT_SECONDS)
    wanted = headers.get("Access-Control-Request-Headers", "")
    if wanted:
        told["Access-Control-Allow-Headers"] = wanted
    if headers.get("Access-Control-Request-Private-Network") == "true":
        told["Access-Control-Allow-Private-Network"] = "true"
    return web.Response(status=204, headers=told)


def _host_pattern(entry: str) -> tuple[re.Pattern[str], frozenset[int | None]]:
    """The names that an entry of the list stands for, and the ports; none: any.

    Raises:
        ConfigError: it is no name of a host.
    """
    found = _ENTRY.fullmatch(entry.lower())
    port = int(found["port"]) if found is not None and found["port"] is not None else None
    if found is None or (port is not None and not 0 < port < 65536):
        raise ConfigError(
            f"MINER_SERVE_ALLOWED_HOSTS: {entry!r} is no name of a host.",
            hint="Write the name alone, or with a port: llm.example.org, llm.example.org:8443; *.example.org is any "
            "name below it.",
        )
    name = (rf"(?:{_LABEL}\.)+" if found["sub"] else "") + re.escape((found["host"] or found["six"]).rstrip("."))
    if port is None:
        return re.compile(name), frozenset()
    return re.compile(name), frozenset({port, None} if port in (80, 443) else {port})  # who means those says none


def _listed(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def is_own_name(host: str) -> bool:
    """Whether a Host header names this machine, as only this machine can."""
    return is_loopback(_name_of(host))


def _name_of(host: str) -> str:
    """The name in a Host header, without its port; "" for what is none."""
    try:
        parts = urlsplit(f"//{host}")
        return "" if parts.username is not None or parts.path else (parts.hostname or "").rstrip(".")
    except ValueError:
        return ""


def _port_of(host: str) -> int | None:
    try:
        return urlsplit(f"//{host}").port
    except ValueError:
        return -1
