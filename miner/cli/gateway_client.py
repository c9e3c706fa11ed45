"""Requests of commands to the admin routes of a running gateway."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from miner.cli.parser import UsageError
from miner.core.http.client import HttpClient, HttpResponse
from miner.core.http.errors import Upstream, parse_error_body
from miner.errors import BackendProtocolError, BackendUnavailableError, MinerError, ModelNotFoundError
from miner.gateway.settings import GatewaySettings

_KEY_HINT = "Create a key with `miner keys new NAME --admin` and pass it with --key, or on standard input with --key -."
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Wildcard address -> the one to connect to."""


def default_url() -> str:
    """The URL of `miner serve` by the settings of this environment."""
    settings = GatewaySettings()
    host = settings.serve_host.strip("[]")
    host = _LOOPBACK.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.serve_port}"


@dataclass(frozen=True, slots=True)
class GatewayClient:
    """A running gateway, and the key for its admin routes."""

    base_url: str
    key: str | None = None

    @classmethod
    def of(cls, url: str | None, key: str | None) -> GatewayClient:
        """The gateway that a command means.

        Args:
            url: its base URL; None: `default_url`.
            key: an API key with the admin right, if the gateway has keys; "-": read it from standard input.
        """
        base_url = (default_url() if url is None else url).rstrip("/").removesuffix("/v1")
        if not base_url.startswith(("http://", "https://")):
            raise UsageError(f"--url {url}: must start with http:// or https://, such as http://127.0.0.1:8088.")
        return cls(base_url, sys.stdin.readline().strip() if key == "-" else key)

    def act(self, model: str, action: str, body: dict[str, Any] | None = None, *, timeout: float = 30.0) -> Any:
        """POST /admin/models/{model}/{action}; return the response.

        Raises:
            MinerError: the gateway cannot be reached or refuses the key, there is no such model, or the backend does
                not support this.
        """
        path = f"/admin/models/{quote(model, safe='')}/{action}"
        return asyncio.run(self._request("POST", path, json.dumps(body or {}).encode(), timeout=timeout, model=model))

    def get(self, path: str, *, timeout: float = 30.0) -> Any:
        """GET a path; return the response."""
        return asyncio.run(self._request("GET", path, None, timeout=timeout))

    def _upstream(self, timeout: float) -> Upstream:
        return Upstream(
            backend="gateway",
            base_url=self.base_url,
            read_timeout=timeout,
            unreachable_hint="Start it with `miner serve`, or set its URL with --url.",
            address_setting="--url",
        )

    async def _request(
        self, method: str, path: str, body: bytes | None, *, timeout: float, model: str | None = None
    ) -> Any:
        upstream = self._upstream(timeout)
        http = HttpClient(upstream, api_key=self.key)
        try:
            response = await http.request(method, path, body, total=timeout)
        finally:
            await http.close()
        if response.status != 200:
            raise _error(response, model, upstream)
        try:
            return json.loads(response.body)
        except ValueError:
            raise _no_gateway(upstream, response.status) from None


def reset_model(model: str, *, url: str | None, key: str | None) -> str:
    """Make a gateway start the failed engine of a model again at the next request; return the model's name.

    Raises:
        MinerError: as of `GatewayClient.act`.
    """
    client = GatewayClient.of(url, key)
    answer = client.act(model, "reset")
    if not isinstance(answer, dict) or answer.get("reset") is not True:
        raise _no_gateway(client._upstream(30.0), 200)
    return model


def _error(response: HttpResponse, model: str | None, upstream: Upstream) -> MinerError:
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
