"""Authentication by API key, and the models that a caller may use."""

from __future__ import annotations

import logging

from miner.core._typing import override
from miner.errors import InvalidRequestError
from miner.gateway.auth.key_store import KeyStore
from miner.gateway.catalog import find_model, may_use, refuse_nameless
from miner.gateway.client_address import is_loopback, is_proxied
from miner.gateway.context import ANYBODY, OPERATOR, Caller, RequestContext
from miner.gateway.dialect import Call
from miner.gateway.errors import RefusedError
from miner.gateway.middleware.base import Middleware
from miner.gateway.middleware.hosts import is_local_host, is_same_origin
from miner.gateway.model_backend import could_be_a_file
from miner.gateway.settings import GatewaySettings
from miner.gateway.state import Gateway

logger = logging.getLogger("miner.gateway")


class Authentication(Middleware):
    """Sets the caller of each request; refuses a request without a required key. KeyStore says how long a change of the
    keys file takes.
    """

    checks_sender = True

    def __init__(self, settings: GatewaySettings, keys: KeyStore | None = None) -> None:
        self.keys = KeyStore(settings) if keys is None else keys
        self._local = is_loopback(settings.serve_host)

    @override
    async def on_startup(self, gateway: Gateway) -> None:
        await self.keys.load()
        gateway.background.start("key watcher", self.keys.watch)
        gateway.readiness_checks.append(self.keys.unavailable_reason)
        if not self.keys.required and gateway.service.rules_of(None).limits_keys:
            logger.warning(
                "There are models that only some API keys may use, and no API keys: nobody can use them. "
                "`miner keys new NAME` creates one."
            )

    @override
    def on_request(self, context: RequestContext) -> None:
        if context.route.access != "open":
            context.caller = self._caller_of(context)

    def caller_of(self, partition: str) -> Caller | None:
        """The caller whose data is stored under this name; None: its key was revoked."""
        if not partition:
            return None if self.keys.required else ANYBODY
        return self.keys.find_partition(partition)

    def _caller_of(self, context: RequestContext) -> Caller:
        if not self.keys.required:
            return OPERATOR if self._local and _is_local(context) else ANYBODY
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
    async def before_body(self, context: RequestContext) -> None:
        """Where the keys file has not been read for a while, read it: the key may have been revoked."""
        if self.keys.is_fresh or context.route.access == "open":
            return
        trusted = await self.keys.refresh()
        context.caller = caller = self._caller_of(context)
        if not trusted and caller.revocable:
            raise RefusedError(
                503, "keys_unavailable", "API keys cannot be checked now.", retry_after=5,
                operator_hint="The file of MINER_API_KEYS_FILE has to be readable.",
            )  # fmt: skip

    @override
    async def before_call(self, context: RequestContext, call: Call) -> None:
        await check_model_access(context, call.model)


async def check_model_access(context: RequestContext, name: str | None) -> None:
    """Make sure that the caller may use this model: its key may be limited to some, and a backend might open a file of
    a name that is not offered.

    Args:
        context: of the request.
        name: as the client wrote it; None: the default model.

    Raises:
        ModelNotFoundError: there is none, or not for this caller.
        InvalidRequestError: the key needs a name.
    """
    models, service = context.caller.models, context.gateway.service
    rules = service.rules_of(name)
    if rules.names:
        if not may_use(context.caller, service, rules):
            await find_model(context, name or rules.name or "")  # there is none for this caller
        return
    default = service.rules_of(None).name
    if name is None and rules.limits_keys and models is None:
        await refuse_nameless(context)
    if name is None:
        if models is None:
            return
        if default is None:
            raise InvalidRequestError("This API key is limited to some models: model is required.", param="model")
        if default not in models:
            await find_model(context, default)
    elif models is not None:
        if name not in models:
            await find_model(context, name)
    elif rules.limits_keys or (could_be_a_file(name) and name != default):
        await find_model(context, name)


def _is_local(context: RequestContext) -> bool:
    """Whether this machine called directly: no proxy or tunnel has forwarded the request, it names this machine as only
    the machine itself can, and no other web page has sent it.
    """
    request = context.request
    headers = request.headers
    if context.route.access != "admin" and not context.route.always:
        return False  # only these depend on the right, and looking costs
    if not is_loopback(request.remote or "") or is_proxied(headers):
        return False
    host, origin = headers.get("Host"), headers.get("Origin")
    if host is not None and not is_local_host(host):
        return False
    if origin is not None and not is_same_origin(origin, host):
        return False
    return headers.get("Sec-Fetch-Site") in (None, "same-origin", "none")


def _sent_keys(context: RequestContext) -> list[str]:
    """The keys that the client sent. Some clients send both headers, one of them with a placeholder."""
    headers = context.request.headers
    keys = []
    api_key = headers.get("X-Api-Key")
    if api_key:
        keys.append(api_key.strip())
    authorization = headers.get("Authorization")
    if authorization:
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() == "bearer" and key.strip():
            keys.append(key.strip())
    return keys
