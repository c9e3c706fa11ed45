"""The gateway that a program is set up for: its address, the model to use, and the context that is in force."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

import msgspec

from miner.cli.gateway_client import default_url
from miner.cli.node import say_node
from miner.cli.parser import UsageError
from miner.core.http.client import HttpClient, HttpResponse
from miner.core.http.errors import Upstream, parse_error_body
from miner.errors import BackendProtocolError, BackendUnavailableError, ModelNotFoundError

AGENT_CONTEXT = 32_768
"""Tokens that a coding agent needs: its first request alone has about 20,000."""
NO_KEY = "none"
"""Sent as the key to a gateway without keys: most programs insist on one."""
_SECONDS = 30.0


class Node(msgspec.Struct, frozen=True):
    """A running gateway, and one of its models."""

    url: str
    """Without /v1 and trailing slash."""
    key: str
    """NO_KEY where the gateway has none."""
    model: str
    context: int | None
    """Tokens of prompt and response together; None: not known."""
    images: bool = False
    """Whether the model reads images."""
    tools: bool = True
    """Whether the model calls tools by itself, as its chat template describes them."""

    @property
    def v1(self) -> str:
        """Base URL of OpenAI's API."""
        return f"{self.url}/v1"

    @property
    def output(self) -> int:
        """Tokens of a response for programs that must set a limit: a quarter of the context."""
        return max(256, min(32_000, (self.context or AGENT_CONTEXT) // 4))


class _Model(msgspec.Struct):
    id: str
    aliases: list[str] = []
    max_model_len: int | None = None
    capabilities: list[str] | None = None

    def able(self, *names: str) -> bool:
        """Whether it is known to have these capabilities, or nothing is known."""
        return self.capabilities is None or all(name in self.capabilities for name in names)


class _Models(msgspec.Struct):
    data: list[_Model] = []


def find_node(*, url: str | None, key: str | None, model: str | None) -> Node:
    """Ask the gateway for its models and choose one: the one that is named, else the first that has tools and a context
    that is long enough, else the one with the longest context.

    Args:
        url: base URL of the gateway; None: that of `miner serve` by the settings of this environment.
        key: an API key, if the gateway has keys.

    Raises:
        MinerError: the gateway cannot be reached, refuses the key, or has no such model.
    """
    base = (default_url() if url is None else url).rstrip("/").removesuffix("/v1")
    if not base.startswith(("http://", "https://")):
        raise UsageError(f"--url {url}: must start with http:// or https://, such as http://127.0.0.1:8088.")
    say_node()
    return asyncio.run(_find(base, key, model))


async def _find(url: str, key: str | None, name: str | None) -> Node:
    upstream = Upstream(
        backend="gateway", base_url=url, read_timeout=_SECONDS, address_setting="--url",
        unreachable_hint="Start it with `miner serve` in another terminal, or set its URL with --url.",
    )  # fmt: skip
    http = HttpClient(upstream, api_key=key)
    try:
        models = _decode(await http.request("GET", "/v1/models", total=_SECONDS), upstream).data
        found = _named(models, name) if name is not None else _best(models)
        if found.max_model_len is None:  # lists do not decide it for many models
            response = await http.request("GET", f"/v1/models/{quote(found.id, safe='/:')}", total=_SECONDS)
            if response.status == 200:
                found = msgspec.json.decode(response.body, type=_Model)
    finally:
        await http.close()
    return Node(
        url=url,
        key=key or NO_KEY,
        model=found.id,
        context=found.max_model_len,
        images="images" in (found.capabilities or ()),
        tools=found.able("tools") and "emulated" not in (found.capabilities or ()),
    )


def _decode(response: HttpResponse, upstream: Upstream) -> _Models:
    where = f"The gateway at {upstream.shown_url}"
    if response.status in (401, 403):
        hint = "Pass one with --key - on standard input, or set MINER_KEY to it."
        raise UsageError(f"{where} requires an API key.", operator_hint=hint)
    if response.status != 200:
        message = parse_error_body(response.body).message
        details: dict[str, Any] = upstream.details(response.status)
        raise BackendUnavailableError(f"{where} failed (HTTP {response.status}): {message}", **details)
    try:
        return msgspec.json.decode(response.body, type=_Models)
    except msgspec.DecodeError as error:
        raise BackendProtocolError(
            f"The server at {upstream.shown_url} lists no models: {error}.", operator_hint="Is it `miner serve`?",
            **upstream.details(200),
        ) from error  # fmt: skip


def _named(models: list[_Model], name: str) -> _Model:
    wanted = name.lower()
    for model in models:
        if wanted in (model.id.lower(), *(alias.lower() for alias in model.aliases)):
            return model
    names = [model.id for model in models]
    raise ModelNotFoundError(
        f"The gateway has no model {name!r}.", model=name, available=names,
        hint=f"Available: {', '.join(names)}." if names else None,
    )  # fmt: skip


def _best(models: list[_Model]) -> _Model:
    chat = [model for model in models if model.able("chat")]
    if not chat:
        raise ModelNotFoundError(
            "The gateway has no model that chats.", operator_hint="Get one with `miner models pull hf:owner/repo`."
        )
    long = [model for model in chat if (model.max_model_len or 0) >= AGENT_CONTEXT]
    with_tools = [model for model in long if model.able("tools")]
    return next(iter(with_tools or long), max(chat, key=lambda model: model.max_model_len or 0))
