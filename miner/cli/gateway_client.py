"""Requests of commands to the admin routes of a running gateway."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict
from urllib.parse import quote

import msgspec

from miner.cli.json_value import loads
from miner.cli.node import say_node, source_of
from miner.cli.parser import UsageError
from miner.cli.target import read_key
from miner.core.http.client import HttpClient, HttpResponse
from miner.core.http.errors import Upstream, parse_error_body
from miner.errors import BackendProtocolError, BackendUnavailableError, MinerError, ModelNotFoundError
from miner.gateway.settings import GatewaySettings

_KEY_HINT = (
    "Create one on its machine with `miner keys new NAME --admin` (for a key that exists: `miner keys update NAME "
    "--admin`); set MINER_KEY to it, or pass it with --key, or on standard input with --key -."
)
_LONGEST_EVENT = 64 * 2**20
_SILENCE = 120.0
"""Seconds after which a stream of events counts as lost: a gateway sends a heartbeat every 15 s."""
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Wildcard address -> the one to connect to."""


def default_url() -> str:
    """The URL of `miner serve` by the settings of this environment."""
    settings = GatewaySettings()
    host = settings.serve_host.strip("[]")
    host = _LOOPBACK.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.serve_port}"


class Found(TypedDict):
    """Any object."""


class Acted(TypedDict):
    """What came of an action."""

    model: str


class NamedModel(TypedDict):
    """A model, of which the rest is optional."""

    name: str


class Models(TypedDict):
    """The models of a gateway."""

    models: list[NamedModel]


class Entries(TypedDict):
    """Entries of a gateway's log."""

    entries: list[dict[str, Any]]


class Lines(TypedDict):
    """Lines of an engine's log."""

    lines: list[str]


class Node(TypedDict):
    """The programs of a gateway."""

    version: str
    python: str
    platform: str
    engines: dict[str, Any]


class ServerEvent(NamedTuple):
    """One server-sent event."""

    kind: str
    data: dict[str, Any]
    number: int | None
    """Its id."""

    @classmethod
    def parse(cls, block: bytes) -> ServerEvent | None:
        """The event of some lines; None: they are a comment.

        Raises:
            ValueError: they are no event of a gateway.
        """
        fields: dict[str, str] = {}
        for line in block.decode("utf-8", "replace").split("\n"):
            name, _, value = line.partition(":")
            if name:
                fields[name] = value.removeprefix(" ")
        if "data" not in fields:
            return None
        number = fields.get("id", "")
        data = loads(fields["data"])
        if not isinstance(data, dict):
            raise ValueError(f"its data is no object: {fields['data'][:100]}")
        return cls(fields.get("event", ""), data, int(number) if number.isdecimal() else None)


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
        say_node()
        return cls(base_url, sys.stdin.readline().strip() if key == "-" else read_key(key))

    def act(
        self, model: str, action: str, body: dict[str, Any] | None = None, kind: type = Acted, *, timeout: float = 30.0
    ) -> Any:
        """POST /admin/models/{model}/{action}; return the response.

        Raises:
            MinerError: the gateway cannot be reached or refuses the key, there is no such model, or the backend does
                not support this.
        """
        path = f"/admin/models/{quote(model, safe='')}/{action}"
        sent = json.dumps(body or {}).encode()
        return asyncio.run(self._request("POST", path, sent, kind, timeout=timeout, model=model))

    def get(self, path: str, kind: type = Found, *, timeout: float = 30.0, model: str | None = None) -> Any:
        """GET a path; return the response.

        Args:
            kind: a TypedDict with what the caller needs of it.
            model: of the path, for the error where there is none.

        Raises:
            MinerError: as of `act`, or the response is of another kind.
        """
        return asyncio.run(self._request("GET", path, None, kind, timeout=timeout, model=model))

    async def fetch(self, path: str, kind: type = Found, *, timeout: float = 10.0) -> Any:
        """GET a path on the running event loop; return the response, as `get` does."""
        return await self._request("GET", path, None, kind, timeout=timeout)

    async def events(self, path: str, *, model: str | None = None) -> AsyncGenerator[ServerEvent, None]:
        """GET server-sent events as they come, until the gateway ends them.

        Args:
            model: of the path, for the error where there is none.

        Raises:
            MinerError: as of `act`, or the connection is lost.
        """
        upstream = self._upstream(_SILENCE)
        http = HttpClient(upstream, api_key=self.key, reuse=False)
        try:
            async with http.stream(path, None) as response:
                if response.status != 200:
                    body = await response.read_all()
                    raise _error(HttpResponse(response.status, response.headers, body), model, upstream, self.key)
                left = b""
                while data := await response.read_some():
                    *blocks, left = (left + data.replace(b"\r\n", b"\n")).split(b"\n\n")
                    try:
                        found = [ServerEvent.parse(block) for block in blocks]
                    except ValueError:
                        raise _no_gateway(upstream, response.status) from None
                    if len(left) > _LONGEST_EVENT:
                        raise _no_gateway(upstream, response.status)
                    for event in found:
                        if event is not None:
                            yield event
        finally:
            await http.close()

    def _upstream(self, timeout: float) -> Upstream:
        return Upstream(
            backend="gateway",
            base_url=self.base_url,
            read_timeout=timeout,
            unreachable_hint="Start it with `miner serve`, or set its URL with --url.",
            address_setting="--url",
        )

    async def _request(
        self, method: str, path: str, body: bytes | None, kind: type, *, timeout: float, model: str | None = None
    ) -> Any:
        upstream = self._upstream(timeout)
        http = HttpClient(upstream, api_key=self.key)
        try:
            response = await http.request(method, path, body, total=timeout)
        finally:
            await http.close()
        if response.status != 200:
            raise _error(response, model, upstream, self.key)
        try:
            found = loads(response.body)
            msgspec.convert(found, kind)  # not its result: that lacks fields that are not named
            return found
        except (ValueError, RecursionError):
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


def _error(response: HttpResponse, model: str | None, upstream: Upstream, key: str | None) -> MinerError:
    body = parse_error_body(response.body)
    gateway = f"The gateway at {upstream.shown_url}"
    if response.status == 401 and key is not None:
        return UsageError(
            f"{gateway} refused the key of {source_of(key)}: it is none of its keys.",
            operator_hint=f"Is it that of another node, or revoked? {_KEY_HINT}",
        )
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
