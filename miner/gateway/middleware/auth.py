"""Access: who may call which route, and the keys that say so, kept up to date while the server runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from miner.config.config import config_of
from miner.core._typing import override
from miner.errors import InvalidRequestError
from miner.gateway.addresses import is_loopback
from miner.gateway.auth.key_store import KeyStore
from miner.gateway.auth.keys import KeyCaller
from miner.gateway.catalog import could_be_a_file, find_model
from miner.gateway.client_address import came_through_a_proxy
from miner.gateway.context import ANYBODY, OPERATOR, Caller, RequestContext
from miner.gateway.errors import RefusedError
from miner.gateway.middleware.base import Middleware
from miner.gateway.middleware.hosts import is_own_name
from miner.gateway.settings import GatewaySettings

if TYPE_CHECKING:
    from miner.gateway.apis.base import Call
    from miner.gateway.state import Gateway

__all__ = ["Access"]


class Access(Middleware):
    """Lets in who has a key; decided on the matched route, deny by default. KeyStore says how long a change of the file
    takes.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self.keys = KeyStore(settings)
        self._local = is_loopback(settings.serve_host)

    @override
    async def start(self, gateway: Gateway) -> None:
        await self.keys.load()
        gateway.background.start("key watcher", self.keys.watch)

    @override
    def problem(self) -> str | None:
        return self.keys.down

    @override
    def check(self, context: RequestContext) -> None:
        if context.route.access == "open":
            return
        context.caller = self._caller_of(context)

    def _caller_of(self, context: RequestContext) -> Caller:
        """Who asks; one who needs a key and has none is refused."""
        if not self.keys.needed:
            return OPERATOR if self._local and _sits_here(context) else ANYBODY
        caller = None
        for key in _sent_keys(context):
            caller = caller or self.keys.find(key)
        if caller is None:
            raise RefusedError(
                401, "invalid_api_key", "Invalid or missing API key.",
                hint="Send it as `Authorization: Bearer KEY` or `x-api-key: KEY`.",
                headers={"WWW-Authenticate": "Bearer"},
            )  # fmt: skip
        return caller

    @override
    async def admit(self, context: RequestContext) -> None:
        """Nobody has looked at the file for a while: make sure that the key still opens."""
        if self.keys.fresh or context.route.access == "open":
            return
        trusted = await self.keys.confirm()
        context.caller = caller = self._caller_of(context)
        if not trusted and isinstance(caller, KeyCaller) and caller.kept:
            raise RefusedError(
                503, "keys_unavailable", "API keys cannot be checked at the moment.", retry_after=5,
                hint="The file of MINER_API_KEYS_FILE has to be readable.",
            )  # fmt: skip

    @override
    async def enter(self, context: RequestContext, call: Call) -> None:
        models, name = context.caller.models, call.model
        if name is not None and (could_be_a_file(name) if models is None else name not in models):
            await _must_be_listed(context, name)
        elif name is None and models is not None:
            default = config_of(context.gateway.service.config).default_model
            if default is None:
                raise InvalidRequestError("This key opens only some models: name one.", param="model")
            if default not in models:
                await find_model(context, default)


def _sits_here(context: RequestContext) -> bool:
    """Whether somebody at this machine called directly: no proxy or tunnel has passed the request on, it asks for this
    machine by a name of its own, and no web page of elsewhere has sent it.
    """
    request = context.request
    headers = request.headers
    if context.route.access != "admin" and not context.route.always:
        return False  # nobody asks for the right there, and looking costs
    if not is_loopback(request.remote or "") or came_through_a_proxy(headers):
        return False
    host, origin = headers.get("Host"), headers.get("Origin")
    if host is not None and not is_own_name(host):
        return False
    if origin is not None and origin.lower() not in (f"http://{host}".lower(), f"https://{host}".lower()):
        return False
    return headers.get("Sec-Fetch-Site") in (None, "same-origin", "none")


async def _must_be_listed(context: RequestContext, name: str) -> None:
    """Backends may open a file of the name that they are given: a request cannot name one that is not offered."""
    if context.caller.models is None and name == config_of(context.gateway.service.config).default_model:
        return
    await find_model(context, name)


def _sent_keys(context: RequestContext) -> list[str]:
    """The keys that the client sent. Some clients send both headers, one of them with a placeholder."""
    headers = context.request.headers
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
