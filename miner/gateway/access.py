"""Access: who may call which route, and the keys that say so, kept up to date while the server runs."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from miner.config.config import config_of
from miner.core._typing import override
from miner.errors import ConfigError, InvalidRequestError
from miner.gateway.addresses import is_loopback
from miner.gateway.catalog import find_model, known_models
from miner.gateway.errors import RefusedError
from miner.gateway.exchange import ANYBODY, OPERATOR, Caller, Exchange
from miner.gateway.hosts import is_own_name
from miner.gateway.keys import KeyCaller, KeyFile, Keyring, Limits, hash_of, key_path, read_keys
from miner.gateway.proxies import came_through_a_proxy
from miner.gateway.settings import GatewaySettings
from miner.gateway.stages import Stage

if TYPE_CHECKING:
    from miner.gateway.dialects.base import Call
    from miner.gateway.gateway import Gateway

__all__ = ["Access", "has_keys"]

logger = logging.getLogger("miner.gateway")

_SHORTEST = 16
_POLL_SECONDS = 0.5
_FILE = re.compile(r"^[/\\~.]|^[a-z]:[/\\]|://|\\|\.\.|\.gguf$", re.IGNORECASE)
"""Names of models that could be paths or addresses."""


def has_keys(settings: GatewaySettings) -> bool:
    """Whether clients must send a key.

    Raises:
        ConfigError: keys are set that cannot be used.
    """
    return bool(_given_keys(settings)) or bool(_kept_keys(settings).keys)


def _given_keys(settings: GatewaySettings) -> list[str]:
    text = settings.api_keys.get_secret_value() if settings.api_keys is not None else ""
    keys = [key.strip() for key in text.split(",") if key.strip()]
    for place, key in enumerate(keys):
        if len(key) < _SHORTEST:
            raise ConfigError(
                f"MINER_API_KEYS: key {place + 1} has {len(key)} characters; {_SHORTEST} are needed.",
                hint='`python -c "import secrets; print(secrets.token_urlsafe())"` makes one.',
            )
    return keys


def _kept_keys(settings: GatewaySettings) -> KeyFile:
    """The keys of the file. Where one is named it must be there: a typing error must not open the door."""
    path = key_path(settings.api_keys_file)
    try:
        return read_keys(path)
    except FileNotFoundError:
        if settings.api_keys_file:
            raise ConfigError(
                f"MINER_API_KEYS_FILE={settings.api_keys_file}: there is no such file.",
                hint="`miner keys new NAME` makes it.",
            ) from None
        return KeyFile()


class Access(Stage):
    """Lets in who has a key; decided on the matched route, deny by default. A change of the file counts within 2 s.

    Once there has been a key, one is needed until the server ends, whatever happens to the file.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self.defaults = Limits()
        """Limits of the file for keys that have none of their own."""
        self._given = _given_keys(settings)
        self._path = key_path(settings.api_keys_file)
        self._needed = False
        self._local = is_loopback(settings.serve_host)
        self._ring = Keyring([])
        self._seen = _mark(self._path)
        self._watcher: asyncio.Task[None] | None = None
        self._take(_kept_keys(settings))

    @override
    async def start(self, gateway: Gateway) -> None:
        self._watcher = asyncio.create_task(self._watch(), name="gateway keys")

    @override
    async def stop(self, gateway: Gateway) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)

    @override
    def check(self, exchange: Exchange) -> None:
        if exchange.route.access == "open":
            return
        exchange.caller = self._caller_of(exchange)

    def _caller_of(self, exchange: Exchange) -> Caller:
        """Who asks; one who needs a key and has none is refused."""
        if not self._needed:
            return OPERATOR if self._local and _sits_here(exchange) else ANYBODY
        caller = None
        for key in _sent_keys(exchange):
            caller = caller or self._ring.find(key)
        if caller is None:
            raise RefusedError(
                401, "invalid_api_key", "A valid key is needed.",
                hint="Send it as `Authorization: Bearer KEY` or `x-api-key: KEY`.",
                headers={"WWW-Authenticate": "Bearer"},
            )  # fmt: skip
        return caller

    @override
    async def enter(self, exchange: Exchange, call: Call) -> None:
        models, name = exchange.caller.models, call.model
        if name is not None and (_FILE.search(name) if models is None else name not in models):
            await _must_be_listed(exchange, name)
        elif name is None and models is not None:
            default = config_of(exchange.gateway.service.config).default_model
            if default is None:
                raise InvalidRequestError("This key opens only some models: name one.", param="model")
            if default not in models:
                await find_model(exchange, default)

    def _take(self, kept: KeyFile) -> None:
        """From now on these keys open, and no others of the file."""
        self._ring = Keyring(self._callers(kept))
        self.defaults = kept.limits
        self._needed = self._needed or len(self._ring) > 0

    def _callers(self, kept: KeyFile) -> Iterator[tuple[bytes, KeyCaller]]:
        for place, key in enumerate(self._given):
            yield hash_of(key), KeyCaller(f"MINER_API_KEYS-{place + 1}")
        for entry in kept.keys:
            models = frozenset(entry.models) if entry.models is not None else None
            yield bytes.fromhex(entry.sha256), KeyCaller(entry.name, entry.admin, models, entry.limits)

    async def _watch(self) -> None:
        """Take what the file says whenever it has changed. One that makes no sense changes nothing."""
        missing = False
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            mark = await asyncio.to_thread(_mark, self._path)
            if mark == self._seen:
                missing = False
                continue
            if mark is None and not missing:
                missing = True  # perhaps it is just being replaced: the next look decides
                continue
            self._seen = mark
            try:
                kept = await asyncio.to_thread(read_keys, self._path) if mark is not None else KeyFile()
            except FileNotFoundError:
                continue
            except ConfigError as error:
                logger.error("The keys stay as they were: %s", error)
                continue
            self._take(kept)
            logger.warning("The keys have changed: %d are valid.", len(self._ring))


def _sits_here(exchange: Exchange) -> bool:
    """Whether somebody at this machine called directly: no proxy or tunnel has passed the request on, it asks for this
    machine by a name of its own, and no web page of elsewhere has sent it.
    """
    request = exchange.request
    headers = request.headers
    if exchange.route.access != "admin" and not exchange.route.always:
        return False  # nobody asks for the right there, and looking costs
    if not is_loopback(request.remote or "") or came_through_a_proxy(headers):
        return False
    host, origin = headers.get("Host"), headers.get("Origin")
    if host is not None and not is_own_name(host):
        return False
    if origin is not None and origin.lower() not in (f"http://{host}".lower(), f"https://{host}".lower()):
        return False
    return headers.get("Sec-Fetch-Site") in (None, "same-origin", "none")


async def _must_be_listed(exchange: Exchange, name: str) -> None:
    """Backends may open a file of the name that they are given: a request cannot name one that is not offered."""
    if exchange.caller.models is None:
        default = config_of(exchange.gateway.service.config).default_model
        listed = [alias for model in await known_models(exchange) for alias in (model.id, *model.aliases)]
        if name == default or name in listed or name.removesuffix(".gguf") in listed:
            return
    await find_model(exchange, name)


def _mark(path: Path) -> tuple[int, int, int] | None:
    """What changes when the file does; None: there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def _sent_keys(exchange: Exchange) -> list[str]:
    """The keys that the client sent. Some clients send both headers, one of them with a placeholder."""
    headers = exchange.request.headers
    keys = []
    stated = headers.get("X-Api-Key")
    if stated:
        keys.append(stated.strip())
    authorization = headers.get("Authorization")
    if authorization:
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() == "bearer" and key.strip():
            keys.append(key.strip())
    return keys
