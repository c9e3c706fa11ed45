"""The way out: proxies, certificates, the hub, and the clock by the dates of servers."""

from __future__ import annotations

import asyncio
import os
import re
import ssl
import time
from collections.abc import AsyncGenerator, Iterator
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from miner.cli.doctor.facts import Facts
from miner.cli.doctor.row import Check, Row, Verdict, ok, skipped
from miner.cli.doctor.targets import targets
from miner.config.secrets import secret_text
from miner.core.http.client import HttpClient, HttpResponse
from miner.core.http.errors import Upstream
from miner.core.http.proxy import proxy_for
from miner.core.http.transport_errors import ConnectError
from miner.errors import MinerError

_GROUP = "Network"
_SECONDS = 5.0
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_SKEW_NOTE = 5.0
_SKEW_PROBLEM = 120.0
"""Seconds: beyond it certificates and signed requests begin to fail."""
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def checks() -> list[Check]:
    """The checks of this file."""
    return [
        Check("proxy variables", _GROUP, proxies),
        Check("certificates", _GROUP, certificates),
        Check("hub", _GROUP, hub, 30.0),
        Check("clock", _GROUP, clock, 30.0),
    ]


async def proxies(facts: Facts) -> AsyncGenerator[Row, None]:
    """Which servers are reached through a proxy, and what the variables lack."""
    found = {name: value for name, value in facts.environment.items() if name.upper() in _PROXIES and value}
    named = [name for name in found if name.upper() != "NO_PROXY"]
    if not named:
        yield ok("proxy variables", "none is set")
        return
    urls = [(target.name, target.url) for target in targets(facts) if target.url]
    urls += [("hub", facts.settings.hf_endpoint)]
    through: dict[str, str | None] = {}
    for name, url in urls:
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        try:
            proxy = await proxy_for(parts.hostname or "", parts.port or (443 if tls else 80), tls=tls)
        except ConnectError as error:
            yield Row("proxy variables", "problem", f"{name}: {error}", f"export NO_PROXY={parts.hostname}", error.hint)
            continue
        through[name] = None if proxy is None else f"{proxy.host}:{proxy.port} ({proxy.variable})"
    seen: dict[str, Any] = {"variables": sorted(found), "through": through}
    used = [f"{name} through {proxy}" for name, proxy in through.items() if proxy]
    words = "; ".join(used) or "nothing here is reached through it"
    listed = next((value for name, value in found.items() if name.upper() == "NO_PROXY"), "")
    entries = {entry.strip().lower() for entry in listed.split(",")}
    missing = [name for name in _LOOPBACK if name not in entries] if "*" not in entries else []
    if missing:
        yield Row(
            "proxy variables",
            "note",
            f"{words}. NO_PROXY lacks {', '.join(missing)}: other programs here (curl, SDKs) "
            "send requests for this node to the proxy",
            f"export NO_PROXY={','.join([*filter(None, [listed]), *missing])}",
            "miner itself never reaches this machine through a proxy.",
            seen,
        )
    else:
        yield ok("proxy variables", words, **seen)


def certificates(facts: Facts) -> Iterator[Row]:
    """Whether the files that variables name hold certificates."""
    rows = []
    for name in _CERTIFICATES:
        value = facts.environment.get(name)
        if not value:
            continue
        path = Path(value)
        why = None
        try:
            if not path.exists():
                why = "does not exist"
            elif path.is_file():
                ssl.create_default_context().load_verify_locations(cafile=value)
        except OSError as error:
            why = f"holds no certificates ({error.strerror or type(error).__name__})"
        if why:
            rows.append(
                Row(
                    name,
                    "problem",
                    f"{name}={value} {why}: no TLS connection can be verified",
                    f"unset {name}",
                    seen={"file": value},
                )
            )
    found = [name for name in _CERTIFICATES if facts.environment.get(name)]
    yield from rows or [ok("certificates", f"by {', '.join(found)}" if found else "the system's")]


def _is_offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


async def hub(facts: Facts) -> AsyncGenerator[Row, None]:
    """Whether models can be pulled: the hub responds, and takes the token."""
    endpoint = facts.settings.hf_endpoint
    token = (secret_text(facts.settings.hf_token) or "").strip() or None
    if _is_offline():
        yield skipped("hub", "HF_HUB_OFFLINE is set: nothing can be pulled", fix="unset HF_HUB_OFFLINE")
        return
    path = "/api/whoami-v2" if token else "/api/models?limit=1"
    shown = re.sub(r"://[^/]*@", "://", endpoint)
    try:
        response = await _get(endpoint, path, token)
    except MinerError as error:
        set_ = "hf_endpoint" in facts.is_set
        text = re.sub(r"^hub at \S+ ", "", error.message).rstrip(".")
        row = Row("hub", "note", f"{shown} {text}: no model can be pulled", "unset HF_ENDPOINT", error.hints_for_people)
        yield row if set_ else skipped("hub", f"{shown} {text}. Models that are here work without it")
        return
    seen = {"endpoint": shown, "status": response.status, "token": token is not None}
    if response.status in (401, 403):
        why = "HF_TOKEN was refused" if token else "it wants a token, and HF_TOKEN is not set"
        yield Row(
            "hub",
            "problem",
            f"The hub at {shown} denied access ({response.status}): {why}",
            "export HF_TOKEN=hf_...",
            f"Make one at {shown}/settings/tokens; gated models need their terms accepted on their page, too.",
            seen,
        )
    elif response.status >= 500 or response.status == 429:
        yield Row("hub", "note", f"{shown} answers {response.status}: try later", f"curl -I {shown}", seen=seen)
    else:
        yield ok("hub", f"{shown} responds" + (", and takes HF_TOKEN" if token else ""), **seen)
    async for row in _gated(facts, endpoint, token, shown):
        yield row


async def _gated(facts: Facts, endpoint: str, token: str | None, shown: str) -> AsyncGenerator[Row, None]:
    """The models of the hub that are wanted and not here: whether they may be pulled."""
    from miner.core.models.names import parse_ref

    wanted = [facts.options.model or facts.settings.default_model or ""]
    if facts.loaded is not None:
        wanted += [model.hub or "" for model in facts.loaded.content.models.values()]
    for name in dict.fromkeys(filter(None, wanted)):
        ref = parse_ref(name)
        if ref is None or not any(target.is_local for target in targets(facts)) or _is_here(name, facts):
            continue
        try:
            response = await _get(endpoint, f"/api/models/{ref.repository}", token)
        except MinerError:
            return
        if response.status in (401, 403):
            yield Row(
                name,
                "problem",
                f"The hub at {shown} denied access to {ref} ({response.status})",
                "export HF_TOKEN=hf_...",
                f"Accept its terms at {shown}/{ref.repository}, with the account of the token.",
                {"status": response.status},
            )
        elif response.status == 404:
            yield Row(
                name, "problem", f"The hub at {shown} has no {ref}", f"miner models pull {ref}", "Check the name."
            )
        else:
            yield Row(
                name, "problem", f"{ref} is not here", f"miner models pull {name}", seen={"status": response.status}
            )


def _is_here(name: str, facts: Facts) -> bool:
    from miner.core.llms.llamacpp.models import find_model

    try:
        find_model(name, facts.settings)
    except MinerError:
        return False
    return True


async def _get(base: str, path: str, key: str | None = None, seconds: float = _SECONDS) -> HttpResponse:
    http = HttpClient(Upstream("hub", base, read_timeout=seconds), api_key=key)
    try:
        return await http.request("GET", path, total=seconds)
    finally:
        await http.close()


async def clock(facts: Facts) -> AsyncGenerator[Row, None]:
    """Whether the clock is right, by the dates of the servers that respond; and whether the other one goes on."""
    before = time.monotonic()
    urls = [url for target in targets(facts) if (url := target.url)]
    if not _is_offline():
        urls.append(facts.settings.hf_endpoint)
    found = await asyncio.gather(*(skew_of(url) for url in dict.fromkeys(urls)))
    measured = {url: skew for url, skew in found if skew is not None}
    if time.monotonic() < before:
        yield Row(
            "clock",
            "problem",
            "the monotonic clock goes backwards: timeouts cannot be trusted",
            "uname -a",
            "The virtual machine's clock source is broken.",
        )
    if not measured:
        yield skipped("clock", "no server that responds says its date", now=datetime.now().astimezone().isoformat())
        return
    yield judged_skew(measured)


def judged_skew(measured: dict[str, float]) -> Row:
    """The row for skews by server, in seconds; of several the smallest counts: one server's clock may be wrong."""
    url, skew = min(measured.items(), key=lambda item: abs(item[1]))
    host = urlsplit(url).hostname or url
    seen = {
        "skew": round(skew, 1),
        "servers": {urlsplit(each).netloc.rpartition("@")[2]: round(value, 1) for each, value in measured.items()},
    }
    words = f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} {host}"
    if abs(skew) >= _SKEW_NOTE:
        verdict: Verdict = "problem" if abs(skew) >= _SKEW_PROBLEM else "note"
        return Row(
            "clock",
            verdict,
            f"the clock is {words}",
            "sudo timedatectl set-ntp true",
            "Wrong clocks break TLS, tokens and the times in logs.",
            seen,
        )
    return ok("clock", f"agrees with {host}", **seen)


async def skew_of(url: str) -> tuple[str, float | None]:
    """Seconds by which this clock is ahead of a server's; None: it does not respond, or says no date."""
    began = time.time()
    try:
        response = await _get(url, "/")
    except MinerError:
        return url, None
    return url, skew_in(response, began)


def skew_in(response: HttpResponse, began: float) -> float | None:
    """The same by a response that has just arrived.

    Args:
        began: when its request was sent, by this clock.
    """
    date = response.headers.get("Date")
    try:
        stated, now = parsedate_to_datetime(date or "").timestamp(), time.time()
    except (ValueError, TypeError, OverflowError):
        return None
    # The header has whole seconds, and was written at any time between the request and now.
    return began - 1 - stated if stated < began - 1 else now + 1 - stated if stated > now + 1 else 0.0


def client_checks() -> list[Check]:
    """What matters for a node elsewhere."""
    return [Check("certificates", _GROUP, certificates)]
