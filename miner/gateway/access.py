"""Keys: who may call which route."""

from __future__ import annotations

import hashlib
import hmac

from miner.core._typing import override
from miner.errors import ConfigError
from miner.gateway.errors import RefusedError
from miner.gateway.exchange import Caller, Exchange
from miner.gateway.settings import GatewaySettings
from miner.gateway.stages import Stage

__all__ = ["Access", "has_keys"]

_SHORTEST = 16


def has_keys(settings: GatewaySettings) -> bool:
    """Whether clients must send a key."""
    return bool(_given_keys(settings))


def _given_keys(settings: GatewaySettings) -> list[str]:
    text = settings.api_keys.get_secret_value() if settings.api_keys is not None else ""
    keys = [key.strip() for key in text.split(",") if key.strip()]
    for place, key in enumerate(keys):
        if len(key) < _SHORTEST:
            raise ConfigError(
                f"API_KEYS: key {place + 1} has {len(key)} characters; {_SHORTEST} are needed.",
                hint='`python -c "import secrets; print(secrets.token_urlsafe())"` makes one.',
            )
    return keys


class Access(Stage):
    """Lets in who has a key; decided on the matched route, deny by default."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._hashes = [hashlib.sha256(key.encode()).digest() for key in _given_keys(settings)]

    @override
    def check(self, exchange: Exchange) -> None:
        if not self._hashes or exchange.route.access == "open":
            return
        headers = exchange.request.headers
        given = headers.get("X-Api-Key") or headers.get("Authorization", "").removeprefix("Bearer ").strip()
        digest = hashlib.sha256(given.encode()).digest()
        # All of them, always: the time must not tell how far a guess came.
        known = [hmac.compare_digest(digest, one) for one in self._hashes]
        if not given or not any(known):
            raise RefusedError(
                401, "invalid_api_key", "A valid key is needed.",
                hint="Send it as `Authorization: Bearer KEY` or `x-api-key: KEY`.",
                headers={"WWW-Authenticate": "Bearer"},
            )  # fmt: skip
        if exchange.route.access == "admin":
            raise RefusedError(403, "admin_only", "This needs a key with the admin right.")
        exchange.caller = Caller("API_KEYS")
