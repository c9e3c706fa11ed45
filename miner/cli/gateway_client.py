"""A request of `miner models` to an admin route of a running gateway."""

from __future__ import annotations

import asyncio
import sys
from typing import Any
from urllib.parse import quote

from miner.cli.parser import UsageError
from miner.core.http.client import HttpClient, HttpResponse
from miner.core.http.errors import Upstream, parse_error_body
from miner.errors import BackendProtocolError, BackendUnavailableError, MinerError, ModelNotFoundError
from miner.gateway.settings import GatewaySettings

_TIMEOUT_SECONDS = 30.0
_KEY_HINT = "Create a key with `miner keys new NAME --admin` and pass it with --key, or on standard input with --key -."
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Wildcard address -> the one to connect to."""


def default_url() -> str:
    """The URL of `miner serve` by the settings of this environment."""
    settings = GatewaySettings()
    host = settings.serve_host.strip("[]")
    host = _LOOPBACK.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.serve_port}"


def reset_model(model: str, *, url: str | None, key: str | None) -> str:
    """Make a gateway start the failed engine of a model again at the next request; return the model's name.

    Args:
        url: base URL of the gateway; None: `default_url`.
        key: an API key with the admin right, if the gateway has keys; "-": read it from standard input.

    Raises:
        MinerError: the gateway cannot be reached or refuses the key, the model does not exist, or the backend runs no
            engines.
    """
    base_url = (default_url() if url is None else url).rstrip("/").removesuffix("/v1")
    if not base_url.startswith(("http://", "https://")):
        raise UsageError(f"--url {url}: must start with http:// or https://, such as http://127.0.0.1:8088.")
    return asyncio.run(_reset(model, base_url, sys.stdin.readline().strip() if key == "-" else key))


async def _reset(model: str, base_url: str, key: str | None) -> str:
    upstream = Upstream(
        backend="gateway",
        base_url=base_url,
        read_timeout=_TIMEOUT_SECONDS,
        unreachable_hint="Start it with `miner serve`, or set its URL with --url.",
        address_setting="--url",
    )
    http = HttpClient(upstream, api_key=key)
    try:
        path = f"/admin/models/{quote(model, safe='')}/reset"
        response = await http.request("POST", path, b"{}", total=_TIMEOUT_SECONDS)
    finally:
        await http.close()
    if response.status != 200:
        raise _error(response, model, upstream)
    if b'"reset":true' not in response.body:
        raise _no_gateway(upstream, response.status)
    return model


def _error(response: HttpResponse, model: str, upstream: Upstream) -> MinerError:
    body = parse_error_body(response.body)
    gateway = f"The gateway at {upstream.shown_url}"
    if response.status == 401:
        return UsageError(f"{gateway} requires an API key with the admin right.", operator_hint=_KEY_HINT)
    if response.status == 403:
        hint = f"Keys of MINER_API_KEYS never have the admin right. {_KEY_HINT}"
        return UsageError(f"{gateway} refused the request: {body.message}", operator_hint=hint)
    if response.status == 404:
        if body.fields.get("code") != "model_not_found":
            return _no_gateway(upstream, 404)
        return ModelNotFoundError(f"{gateway}: {body.message}", model=model)
    if 400 <= response.status < 500:
        return UsageError(f"{gateway} refused the request: {body.message}")
    details: dict[str, Any] = upstream.details(response.status)
    return BackendUnavailableError(f"{gateway} failed (HTTP {response.status}): {body.message}", **details)


def _no_gateway(upstream: Upstream, status: int) -> BackendProtocolError:
    return BackendProtocolError(
        f"The server at {upstream.shown_url} has no admin routes.",
        operator_hint="Is --url that of `miner serve`, in this version?",
        **upstream.details(status),
    )
