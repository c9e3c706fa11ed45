"""What `miner models` asks of a gateway that runs: a request to one of its admin routes, and what its answers mean."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from miner.cli.parser import UsageError
from miner.errors import BackendProtocolError, BackendUnavailableError, MinerError, ModelNotFoundError

if TYPE_CHECKING:
    from miner.core.http.client import HttpResponse
    from miner.core.http.errors import Upstream

__all__ = ["default_url", "reset_model"]

_SECONDS = 30.0
_KEY_HINT = "`miner keys new NAME --admin` makes one; pass it with --key, or with --key - on standard input."
_EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def default_url() -> str:
    """Where `miner serve` listens by the settings of this environment."""
    from miner.gateway.settings import GatewaySettings

    settings = GatewaySettings()
    host = _EVERY_ADDRESS.get(settings.serve_host.strip("[]"), settings.serve_host.strip("[]"))
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.serve_port}"


def reset_model(model: str, *, url: str | None, key: str | None) -> str:
    """Have a gateway forget that the engine of a model failed; the model's name.

    Args:
        url: None for the settings' own.
        key: one with the admin right, where the gateway has keys; "-": it stands on standard input.

    Raises:
        MinerError: nobody answers, the key does not do, there is no such model, or the backend has no engines.
    """
    address = (default_url() if url is None else url).rstrip("/").removesuffix("/v1")
    if not address.startswith(("http://", "https://")):
        raise UsageError(
            f"--url {url}: an address begins with http:// or https://.", hint="Such as http://127.0.0.1:8088."
        )
    secret = sys.stdin.readline().strip() if key == "-" else key
    return asyncio.run(_reset(model, address, secret))


async def _reset(model: str, address: str, key: str | None) -> str:
    from miner.core.http.client import HttpClient
    from miner.core.http.errors import Upstream

    upstream = Upstream(
        backend="the gateway",
        base_url=address,
        timeout_setting="the time",
        read_timeout=_SECONDS,
        unreachable_hint="Start it with `miner serve`, or say where it is with --url.",
        address_setting="--url",
    )
    http = HttpClient(upstream, api_key=key)
    try:
        reply = await http.request("POST", f"/admin/models/{quote(model, safe='')}/reset", b"{}", total=_SECONDS)
    finally:
        await http.close()
    if reply.status != 200:
        raise _error(reply, model, upstream)
    if b'"reset":true' not in reply.body:
        raise _somebody_else(upstream, reply.status)
    return model


def _error(reply: HttpResponse, model: str, upstream: Upstream) -> MinerError:
    """What the answer means, and what to do."""
    from miner.core.http.errors import parse_error_body

    body = parse_error_body(reply.body)
    where, code = f"The gateway at {upstream.shown_url}", body.fields.get("code")
    if reply.status == 401:
        return UsageError(f"{where} wants a key with the admin right.", hint=_KEY_HINT)
    if reply.status == 403:
        hint = f"Keys of MINER_API_KEYS never have that right. {_KEY_HINT}"
        return UsageError(f"{where} does not allow it: {body.message}", hint=hint)
    if reply.status == 404 and code == "model_not_found":
        return ModelNotFoundError(f"{where} says: {body.message}", model=model)
    if reply.status == 404:
        return _somebody_else(upstream, 404)
    details: dict[str, Any] = upstream.details(reply.status)
    if 400 <= reply.status < 500:
        return UsageError(f"{where} says: {body.message}")
    return BackendUnavailableError(f"{where} failed (HTTP {reply.status}): {body.message}", **details)


def _somebody_else(upstream: Upstream, status: int) -> BackendProtocolError:
    return BackendProtocolError(
        f"What answers at {upstream.shown_url} has no admin routes.",
        hint="Is --url that of `miner serve`, of this version?",
        **upstream.details(status),
    )
