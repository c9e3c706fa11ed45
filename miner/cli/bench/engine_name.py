"""Which engine serves at an address, and its version, as far as it tells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from miner.core.http.client import HttpClient
from miner.core.http.errors import Upstream
from miner.errors import MinerError

if TYPE_CHECKING:
    from miner.core.llms.contract.backend import Backend

_SECONDS = 5.0
_PACKAGES = {"llamacpp": ("xllamacpp", "llama-cpp-python")}


async def engine_name(http: HttpClient, model: str | None) -> str | None:
    """Name and version, such as `vllm 0.32.0`; None: it does not tell."""
    owner = await _owner(http, model)
    props = await _get(http, "/props", root=True)
    if isinstance(props.get("build_info"), str):
        return f"llama.cpp {props['build_info']}".removesuffix(" b0-unknown")
    if owner == "sglang":
        return _named("sglang", (await _get(http, "/get_server_info", root=True)).get("version"))
    if owner == "library":  # Ollama
        return _named("ollama", (await _get(http, "/api/version", root=True)).get("version"))
    return _named(owner, (await _get(http, "/version", root=True)).get("version")) if owner else None


async def service_engine(service: Backend) -> str:
    """The engine of a backend in this process."""
    from miner.core.engine.packages import installed_engines
    from miner.core.llms.http_backend import HTTPBackend

    if isinstance(service, HTTPBackend) and service.name != "llamacpp":
        endpoint = service.endpoint()
        http = HttpClient(Upstream(service.name, endpoint.api_base, read_timeout=_SECONDS), api_key=endpoint.api_key)
        try:
            path = "/api/version" if service.name == "ollama" else "/version"
            return _named(service.name, (await _get(http, path, root=True)).get("version"))
        finally:
            await http.close()
    packages = installed_engines()
    return next(
        (f"{name} {packages[name]}" for name in _PACKAGES.get(service.name, ()) if name in packages), service.name
    )


def _named(name: str, version: Any) -> str:
    return f"{name} {version}" if isinstance(version, str) else name


async def _owner(http: HttpClient, model: str | None) -> str | None:
    """`owned_by` of the model."""
    listed = (await _get(http, "/models")).get("data")
    cards = [card for card in listed if isinstance(card, dict)] if isinstance(listed, list) else []
    named = [card for card in cards if model is None or card.get("id") == model] or cards
    owner = named[0].get("owned_by") if named else None
    return owner if isinstance(owner, str) and owner.isprintable() and owner else None


async def _get(http: HttpClient, path: str, *, root: bool = False) -> dict[str, Any]:
    """The JSON object at a path; empty if there is none."""
    try:
        response = await http.request("GET", path, total=_SECONDS, root=root)
        found = msgspec.json.decode(response.body) if response.status == 200 else {}
    except (MinerError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
