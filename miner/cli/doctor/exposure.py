"""Who can reach what: the address of `miner serve`, keys, proxies in front, and engines beside it."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator

from miner.cli.doctor.facts import Facts
from miner.cli.doctor.listeners import Listener, is_node, listeners, node_url
from miner.cli.doctor.row import Check, Row, ok, skipped
from miner.cli.doctor.targets import targets
from miner.errors import ConfigError
from miner.gateway.client_address import TrustedProxies, is_loopback

_GROUP = "Exposure"
NEW_KEY_LINE = "export MINER_API_KEYS=$(python -c 'import secrets; print(secrets.token_urlsafe())')"
_LOCAL_ONLY = {
    "ollama": "OLLAMA_HOST=127.0.0.1 ollama serve",
    "vllm": "vllm serve NAME --host 127.0.0.1",
    "llamacpp": "llama-server --host 127.0.0.1 -m MODEL.gguf",
}


def checks() -> list[Check]:
    """The checks of this file."""
    return [
        Check("port", _GROUP, port),
        Check("address", _GROUP, address),
        Check("engines' addresses", _GROUP, engines),
        Check("proxies in front", _GROUP, proxies),
        Check("web pages", _GROUP, pages),
    ]


def port(facts: Facts) -> Iterator[Row]:
    """Whether `miner serve` could listen, or who does."""
    host, number = facts.gateway.serve_host.strip("[]"), facts.gateway.serve_port
    seen = {"host": host, "port": number}
    if number == 0:
        yield ok("port", "any free one", **seen)
        return
    try:
        found = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        yield Row(
            "port",
            "problem",
            f"{host!r} is not an address of this machine: {error.strerror or error}",
            "export MINER_SERVE_HOST=127.0.0.1",
            seen=seen,
        )
        return
    problem = next(filter(None, (_cannot_bind(*item) for item in found)), None)
    if problem is None:
        yield ok("port", f"{host}:{number} is free: no node runs here", **seen)
        return
    owner = _owner_of(number)
    seen["owner"] = owner.owner if owner else None
    if is_node(node_url(facts)):
        yield ok(
            "port",
            f"a node runs at {node_url(facts)}{f': {owner.owner}' if owner else ''}; see `miner doctor --url`",
            **seen,
        )
    elif problem.errno == 13:
        yield Row(
            "port",
            "problem",
            f"{host}:{number} needs rights that this user lacks (ports below 1024)",
            "export MINER_SERVE_PORT=8088",
            seen=seen,
        )
    elif problem.errno == 99:
        yield Row(
            "port",
            "problem",
            f"{host} is not an address of this machine",
            "export MINER_SERVE_HOST=127.0.0.1",
            seen=seen,
        )
    else:
        who = owner.owner if owner else "another program"
        yield Row(
            "port",
            "problem",
            f"{host}:{number} is in use by {who}, which is no node",
            f"export MINER_SERVE_PORT={_free(host)}",
            "`miner serve` cannot start there.",
            seen,
        )


def _cannot_bind(family: int, kind: int, proto: int, _name: str, where: tuple[object, ...]) -> OSError | None:
    try:
        with socket.socket(family, kind, proto) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(where)
            sock.listen(1)
    except OSError as error:
        return error
    return None


def _free(host: str) -> int:
    """A port that is free now."""
    for number in range(8089, 8189):
        try:
            with socket.create_server((host if ":" not in host else "127.0.0.1", number)):
                return number
        except OSError:
            continue
    return 0


def _owner_of(number: int) -> Listener | None:
    return next((each for each in listeners() if each.port == number), None)


def address(facts: Facts) -> Iterator[Row]:
    """Whether others can reach the node, and what they need for it."""
    from miner.gateway.auth.key_store import has_keys

    settings, host = facts.gateway, facts.gateway.serve_host
    try:
        keys = has_keys(settings)
    except (ConfigError, RuntimeError):
        keys = True  # the check of the keys reports it; the node does not start
    seen = {"host": host, "keys": keys, "allow_unauthenticated": settings.serve_allow_unauthenticated}
    if is_loopback(host):
        yield ok(
            "address", f"{host}: this machine only, {'with' if keys else 'no'} keys{'' if keys else ' needed'}", **seen
        )
    elif not keys and settings.serve_allow_unauthenticated:
        yield Row(
            "address",
            "problem",
            f"anybody who reaches {host} can use the node, its admin routes excepted: there are no keys",
            NEW_KEY_LINE,
            "Or listen on this machine alone: export MINER_SERVE_HOST=127.0.0.1",
            seen,
        )
    elif not keys:
        yield Row(
            "address",
            "problem",
            f"others can reach {host}, and there are no keys: `miner serve` does not start",
            NEW_KEY_LINE,
            seen=seen,
        )
    else:
        yield Row(
            "address",
            "note",
            f"others can reach {host}, with keys but without TLS: keys and prompts can be read on the way",
            "tailscale serve 8088  # or caddy reverse-proxy --from HOST --to :8088, and MINER_SERVE_HOST=127.0.0.1"
            if settings.serve_port == 8088
            else f"caddy reverse-proxy --from HOST --to :{settings.serve_port}",
            "The node speaks plain HTTP: in networks that you do not trust, put a proxy with TLS in front.",
            seen,
        )
    if not is_loopback(host) and settings.serve_metrics == "open":
        yield Row("metrics", "note", f"anybody who reaches {host} can read /metrics", "unset MINER_SERVE_METRICS")
    if settings.serve_log_prompts:
        yield Row("log", "note", "prompts and responses are written to the log", "unset MINER_SERVE_LOG_PROMPTS")
    for each in listeners():
        if each.port == settings.serve_port and each.is_wildcard and is_loopback(host) and is_node(node_url(facts)):
            yield Row(
                "address",
                "note",
                f"the node that runs on port {each.port} listens on {each.address}, not on {host}",
                "miner doctor --url " + node_url(facts),
                "It was started with other settings.",
            )


def engines(facts: Facts) -> Iterator[Row]:
    """Whether an engine on this machine can be reached by others, past the node and its keys."""
    found, rows = listeners(), 0
    if not found:
        yield skipped("engines' addresses", "this system does not list what listens")
        return
    for target in targets(facts):
        if target.host is None or not (is_loopback(target.host) or target.host in ("0.0.0.0", "::")):
            continue
        open_ = next((each for each in found if each.port == target.port and each.is_wildcard), None)
        if open_ is not None:
            rows += 1
            yield Row(
                f"{target.name}: address",
                "note",
                f"{open_.owner} listens on {open_.address}:{open_.port}: others reach it past the node and its keys",
                _LOCAL_ONLY.get(target.kind),
                "A firewall may keep them out; the engine itself does not.",
                {"address": open_.address, "port": open_.port, "pid": open_.pid},
            )
    if not rows:
        yield ok("engines' addresses", "no engine here listens for others")


def proxies(facts: Facts) -> Iterator[Row]:
    """Whose word about a client's address counts."""
    text = facts.gateway.serve_trusted_proxies
    if not text.strip():
        yield ok("proxies in front", "none is trusted: limits and the log have the address of the connection")
        return
    try:
        TrustedProxies(text)
    except ConfigError as error:
        yield Row(
            "proxies in front",
            "problem",
            error.message.rstrip("."),
            "export MINER_SERVE_TRUSTED_PROXIES=127.0.0.1",
            error.hints,
            {"trusted": text},
        )
        return
    wide = [
        item
        for item in (part.strip() for part in text.split(","))
        if item and ipaddress.ip_network(item).prefixlen == 0
    ]
    if wide:
        yield Row(
            "proxies in front",
            "problem",
            f"MINER_SERVE_TRUSTED_PROXIES has {wide[0]}: any client can claim any address",
            "export MINER_SERVE_TRUSTED_PROXIES=127.0.0.1",
            "Name the proxy's own address.",
            {"trusted": text},
        )
        return
    yield ok("proxies in front", f"{text} may say whose request it is", trusted=text)


def pages(facts: Facts) -> Iterator[Row]:
    """Which Host names and web pages may call the node."""
    settings = facts.gateway
    hosts, origins = settings.serve_allowed_hosts.strip(), settings.serve_cors_origins.strip()
    seen = {"allowed_hosts": hosts, "cors_origins": origins}
    try:
        from miner.gateway.middleware.hosts import Hosts

        Hosts(settings)
    except ModuleNotFoundError:
        pass  # the extra is missing: another check says so
    except ConfigError as error:
        yield Row("web pages", "problem", error.message.rstrip("."), None, error.hints, seen)
        return
    if "*" in [item.strip() for item in origins.split(",")]:
        yield Row(
            "web pages",
            "note",
            "MINER_SERVE_CORS_ORIGINS=*: every web page that a user visits may call the node",
            "export MINER_SERVE_CORS_ORIGINS=http://localhost:3000",
            "Where no keys are needed, it needs nothing else.",
            seen,
        )
    elif not is_loopback(settings.serve_host) and not hosts:
        yield ok("web pages", "any Host name, and no page of another origin", **seen)
    else:
        yield ok("web pages", f"Host: {hosts or 'this machine'}; pages of {origins or 'no other origin'}", **seen)
