"""Limits: what each client may use a minute and at once, and permits to use the backend for all of them together.

Rates are looked at before the body is read. What a request may use in tokens is reserved before the backend is asked,
and settled when it is known what it did use: only the last request before the limit may overdraw, however many come at
once, and the next one waits until the debt is gone.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from miner.core._typing import override
from miner.core.llms.contract.queueing import QueueClient, set_client
from miner.gateway.auth.keys import KeyCaller, Limits
from miner.gateway.concurrency import BackendQueue, Permit
from miner.gateway.context import ANYBODY, NOBODY, OPERATOR, RequestContext
from miner.gateway.errors import RefusedError
from miner.gateway.middleware.auth import Access
from miner.gateway.middleware.base import Middleware
from miner.gateway.middleware.buckets import Account, Accounts, Bucket, subject_of
from miner.gateway.middleware.token_cost import Charge, expected, used, weight_of
from miner.gateway.settings import GatewaySettings

if TYPE_CHECKING:
    from miner.gateway.apis.base import Call
    from miner.gateway.state import Gateway

__all__ = ["Limiter"]


@dataclass(slots=True)
class _Held:
    """What a request has taken of its client's account."""

    account: Account
    limits: Limits
    slots: int = 1
    charge: Charge | None = None
    """Tokens that it is expected to use; None until its body is read."""
    reserved: int = 0
    """Of those, no more than the whole limit."""


class Limiter(Middleware):
    """Refuses with 429 and `Retry-After` whoever asks too much, and lets the others in in a fair order."""

    def __init__(self, settings: GatewaySettings, access: Access | None = None) -> None:
        self._settings = settings
        self._access = access
        self._all = Limits(
            requests=settings.rate_limit_requests,
            tokens=settings.rate_limit_tokens,
            concurrency=settings.rate_limit_concurrency,
        )
        self._accounts = Accounts()
        self.queue = BackendQueue(settings)

    @override
    async def start(self, gateway: Gateway) -> None:
        self.queue.start(gateway.service)

    @override
    def check(self, context: RequestContext) -> None:
        if context.route.always:
            return
        caller = context.caller
        limits = self._all
        if caller is ANYBODY or caller is OPERATOR or caller is NOBODY:
            owner = subject_of(context.peer)
        else:
            owner = f"key {caller.name}"
            if isinstance(caller, KeyCaller):
                limits = self._limits_of(caller)
        client = context.notes["client"] = QueueClient(owner)
        set_client(client)
        if limits.requests is None and limits.tokens is None and limits.concurrency is None:
            return
        now = asyncio.get_running_loop().time()
        account = self._accounts.of(owner)
        if limits.concurrency is not None and account.running >= limits.concurrency:
            raise _refused(f"Rate limit exceeded: {limits.concurrency} requests at once.", 1)
        if limits.tokens is not None and context.request.method == "POST":
            self._check_tokens(account, limits.tokens, now)
        if limits.requests is not None:
            self._take_request(context, account, limits.requests, now)
        account.running += 1
        context.notes["account"] = _Held(account, limits)

    @override
    async def enter(self, context: RequestContext, call: Call) -> None:
        notes = context.notes
        if "permit" in notes:
            return
        held = notes.get("account")
        if isinstance(held, _Held):
            self._reserve(held, context, call)
        client = notes["client"]
        assert isinstance(client, QueueClient)
        notes["permit"] = await self.queue.acquire(client, weight_of(call))

    @override
    def leave(self, context: RequestContext) -> None:
        notes = context.notes
        permit = notes.pop("permit", None)
        if isinstance(permit, Permit):
            self.queue.release(permit)
            notes["waited"] = permit.client.waited
        held = notes.pop("account", None)
        if isinstance(held, _Held):
            held.account.running -= held.slots
            if held.account.tokens is not None and held.charge is not None:
                held.account.tokens.use(used(context, held.charge) - held.reserved)

    def _limits_of(self, caller: KeyCaller) -> Limits:
        """The key's own, else those of the file, else those of the settings."""
        own, all_ = caller.limits, self._all
        kept = self._access.keys.defaults if self._access is not None else own
        return Limits(
            requests=own.requests or kept.requests or all_.requests,
            tokens=own.tokens or kept.tokens or all_.tokens,
            concurrency=own.concurrency or kept.concurrency or all_.concurrency,
        )

    def _check_tokens(self, account: Account, limit: int, now: float) -> None:
        bucket = account.tokens
        if bucket is None:
            bucket = account.tokens = Bucket(limit, now)
        if bucket.left(limit, now) <= 0:
            raise _refused(f"Rate limit exceeded: {limit} tokens per minute.", bucket.seconds_until(1))

    def _reserve(self, held: _Held, context: RequestContext, call: Call) -> None:
        """Take what the body asks for beyond one request without tokens, which was looked at before it was read."""
        account, limits = held.account, held.limits
        if limits.concurrency is not None:
            slots = weight_of(call)
            if call.items:
                # Texts to embed or rank come in batches of hundreds, which the engine takes as it can: such a batch
                # runs when nothing else of its client does.
                slots = min(slots, limits.concurrency)
            elif slots > limits.concurrency:
                raise _too_large(
                    f"This request alone counts as {slots} requests at once, which is more than the limit of "
                    f"{limits.concurrency}.", _counted(call), "Ask for fewer.",
                )  # fmt: skip
            if account.running - held.slots + slots > limits.concurrency:
                raise _refused(f"Rate limit exceeded: {limits.concurrency} requests at once, each reply counted.", 1)
            account.running += slots - held.slots
            held.slots = slots
        if limits.tokens is not None:
            self._check_tokens(account, limits.tokens, asyncio.get_running_loop().time())
            assert account.tokens is not None
            held.charge = expected(context, call)
            held.reserved = min(held.charge.total, limits.tokens)
            account.tokens.use(held.reserved)

    def _take_request(self, context: RequestContext, account: Account, limit: int, now: float) -> None:
        bucket = account.requests
        if bucket is None:
            bucket = account.requests = Bucket(limit, now)
        left = bucket.left(limit, now)
        headers = context.extra_headers
        headers["X-Ratelimit-Limit-Requests"] = str(limit)
        headers["X-Ratelimit-Remaining-Requests"] = str(max(0, int(left) - 1))
        headers["X-Ratelimit-Reset-Requests"] = f"{bucket.seconds_until(limit):.0f}s"
        if left < 1:
            raise _refused(f"Rate limit exceeded: {limit} requests per minute.", bucket.seconds_until(1))
        bucket.use(1)


def _refused(message: str, seconds: float) -> RefusedError:
    return RefusedError(429, "rate_limit_exceeded", message, retry_after=math.ceil(max(1, min(seconds, 3600))))


def _too_large(message: str, param: str, hint: str) -> RefusedError:
    """No waiting helps, so there is no `Retry-After`, and no status that clients send again."""
    return RefusedError(400, "rate_limit_exceeded", message, param=param, hint=hint)


def _counted(call: Call) -> str:
    """The client's field that makes one request several."""
    prompts = {id(arguments.get("messages", arguments.get("prompt"))) for arguments in call.arguments}
    return "prompt" if len(prompts) > 1 else "n"
