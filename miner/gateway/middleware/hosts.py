"""Host and Origin checks, CORS: web pages cannot use a gateway on the machine of a user who visits them.

A page elsewhere can make the browser call any address. Three things stop it: on loopback, and wherever the operator has
listed names, the Host header must be one of them (DNS rebinding: a page whose own name resolves to 127.0.0.1 sends that
name), an Origin that is not allowed is refused (a plain form needs no permission to send), and no page may read a
response unless its origin is in the settings.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from aiohttp import web

from miner.core._typing import override
from miner.errors import ConfigError
from miner.gateway.client_address import is_loopback
from miner.gateway.context import RequestContext
from miner.gateway.errors import RefusedError
from miner.gateway.middleware.base import Middleware
from miner.gateway.settings import GatewaySettings

_EXPOSED = "Request-Id, Retry-After, X-Miner-Ignored-Params, X-Request-Id"
_METHODS = "GET, HEAD, POST"
_PREFLIGHT_SECONDS = 600
_PRIVATE_ZONES = (".localhost", ".local", ".internal")
"""Zones that no public name has; the same as in Ollama."""
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?"
_HOST = re.compile(
    rf"(?:(?P<sub>\*\.)?(?P<host>{_LABEL}(?:\.{_LABEL})*\.?)|\[(?P<six>[0-9a-f:.]+)\])(?::(?P<port>\d{{1,5}}))?"
)

_SCHEME = r"[a-z][a-z0-9+.-]*"
_ORIGIN = re.compile(
    rf"(?P<scheme>{_SCHEME})://(?:(?P<any>\*)|(?P<sub>\*\.)?(?P<host>{_LABEL}(?:\.{_LABEL})*|\[[0-9a-f:.]+\]))"
    r"(?::(?P<port>\d{1,5}|\*))?"
)
_ANY_HOST = r"(?:[^/:@\[\]]+|\[[0-9a-f:.]+\])"


class Hosts(Middleware):
    """Checks Host and Origin, and sends the CORS headers."""

    checks_sender = True

    def __init__(self, settings: GatewaySettings) -> None:
        self._local = is_loopback(settings.serve_host)
        names = _listed(settings.serve_allowed_hosts)
        self._checked = self._local or bool(names)
        self._hosts = [_host_pattern(name) for name in names]
        self._origins = Origins(_listed(settings.serve_cors_origins))
        self._machine = socket.gethostname().lower()
        self._seen: set[str] = set()
        """Host headers that are allowed, so that almost none is parsed twice; at most 64."""

    @override
    def on_request(self, context: RequestContext) -> None:
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
        known = host is not None and alone and (is_local_host(host) or self._is_known(host))
        if not known:
            raise RefusedError(
                403, "host_not_allowed", f"The Host header {(host or '')[:100]!r} is not allowed.",
                operator_hint="MINER_SERVE_ALLOWED_HOSTS lists the names by which clients may call this server.",
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
        if is_same_origin(origin, host):
            return
        every = self._origins.any
        if not self._origins.allow(origin):
            raise RefusedError(
                403, "origin_not_allowed", "Web pages of this origin may not call this server.",
                operator_hint="MINER_SERVE_CORS_ORIGINS lists those that may.",
            )  # fmt: skip
        allow = {
            "Access-Control-Allow-Origin": "*" if every else origin,
            "Access-Control-Expose-Headers": _EXPOSED,
        }
        if not every:
            allow["Vary"] = "Origin"
        context.extra_headers.update(allow)


async def preflight(context: RequestContext) -> web.StreamResponse:
    """Respond to a CORS preflight request; served only where origins are allowed."""
    headers = context.request.headers
    allowed = context.extra_headers.get("Access-Control-Allow-Origin")
    if allowed is None or "Access-Control-Request-Method" not in headers:
        raise RefusedError(405, "method_not_allowed", "OPTIONS is only allowed for CORS preflight requests.")
    context.status = 204
    allow = context.headers()
    del allow["Content-Type"]
    allow["Access-Control-Allow-Methods"] = _METHODS
    allow["Access-Control-Max-Age"] = str(_PREFLIGHT_SECONDS)
    wanted = headers.get("Access-Control-Request-Headers", "")
    if wanted:
        allow["Access-Control-Allow-Headers"] = wanted
    if headers.get("Access-Control-Request-Private-Network") == "true":
        allow["Access-Control-Allow-Private-Network"] = "true"
    return web.Response(status=204, headers=allow)


def _host_pattern(entry: str) -> tuple[re.Pattern[str], frozenset[int | None]]:
    """The names that an entry of the list matches, and the ports; none: any.

    Raises:
        ConfigError: it is not a host name.
    """
    found = _HOST.fullmatch(entry.lower())
    port = int(found["port"]) if found is not None and found["port"] is not None else None
    if found is None or (port is not None and not 0 < port < 65536):
        raise ConfigError(
            f"MINER_SERVE_ALLOWED_HOSTS: {entry!r} is not a host name.",
            hint="Give a name, with or without a port: llm.example.org, llm.example.org:8443; *.example.org is any "
            "name below it.",
        )
    name = (rf"(?:{_LABEL}\.)+" if found["sub"] else "") + re.escape((found["host"] or found["six"]).rstrip("."))
    if port is None:
        return re.compile(name), frozenset()
    # Clients leave out the default port.
    return re.compile(name), frozenset({port, None} if port in (80, 443) else {port})


def _listed(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def is_local_host(host: str) -> bool:
    """Whether a Host header names this machine as only this machine itself can: localhost or a loopback address."""
    return is_loopback(_name_of(host))


def is_same_origin(origin: str, host: str | None) -> bool:
    """Whether an Origin header is that of a page from the server that the Host header names."""
    return host is not None and origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}")


def _name_of(host: str) -> str:
    """The name in a Host header, without its port; "" if it is malformed."""
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


class Origins:
    """The origins of a list: exact ones, `*` for any, and patterns: `chrome-extension://*`, `http://localhost:*` (with
    any port, or none), `https://*.example.org` (any name below it).

    Raises:
        ConfigError: an entry is no origin; or `null`, which every sandboxed page sends.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        entries = [entry.lower() for entry in entries]
        self.any = "*" in entries
        """Whether all pages may call."""
        self._exact = {_exact_origin(entry) for entry in entries if "*" not in entry}
        patterns = [_origin_pattern(entry) for entry in entries if "*" in entry and entry != "*"]
        self._pattern = re.compile("|".join(patterns)) if patterns else None

    def allow(self, origin: str) -> bool:
        """Whether a page of this origin may call."""
        origin = origin.lower()
        if self.any or origin in self._exact:
            return True
        return self._pattern is not None and self._pattern.fullmatch(origin) is not None


def _exact_origin(entry: str) -> str:
    _origin_parts(entry)
    return entry


def _origin_pattern(entry: str) -> str:
    parts = _origin_parts(entry)
    host = _ANY_HOST if parts["any"] else (rf"(?:{_LABEL}\.)+" if parts["sub"] else "") + re.escape(parts["host"])
    port = {None: "", "*": r"(?::\d{1,5})?"}.get(parts["port"], f":{parts['port']}")
    if parts["any"] and parts["port"] is None:
        port = r"(?::\d{1,5})?"
    return f"{re.escape(parts['scheme'])}://{host}{port}"


def _origin_parts(entry: str) -> re.Match[str]:
    found = _ORIGIN.fullmatch(entry)
    if found is None or (found["port"] not in (None, "*") and not 0 < int(found["port"]) < 65536):
        raise ConfigError(
            f"MINER_SERVE_CORS_ORIGINS: {entry!r} is not an origin.",
            hint="Give scheme, name and port, without a path: https://app.example.org, http://localhost:3000; "
            "patterns are http://localhost:*, https://*.example.org, chrome-extension://*, or * for any.",
        )
    return found
