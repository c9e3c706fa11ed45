"""Rate limits per client, and the queue in front of the service.

Rates are checked before the body is read. The tokens that a request may use are reserved before the service is called,
and settled when it is known what it did use: only the last request before the limit may overdraw, however many come at
once, and the next one waits until the debt is paid.
"""

from __future__ import annotations

import asyncio
import math

from miner.core._typing import override
from miner.core.counted import counted
from miner.core.llms.contract.queue_client import QueueClient, set_client
from miner.gateway.auth.key_store import KeyStore
from miner.gateway.context import RequestContext
from miner.gateway.dialect import Call
from miner.gateway.errors import RefusedError
from miner.gateway.middleware.base import Middleware
from miner.gateway.middleware.token_cost import estimate_tokens, requests_in, used_tokens
from miner.gateway.rate_limits import Account, Accounts, Limits, Reservation, TokenBucket, client_of
from miner.gateway.settings import GatewaySettings

PRIORITY_HEADER = "X-Miner-Priority"
"""`batch`: the request waits behind all interactive ones."""


class RateLimiter(Middleware):
    """Refuses a client over its limit with 429 and `Retry-After`, and queues the others fairly.

    Args:
        settings: have the limits of all clients.
        keys: has the limits of the keys file; None: there are none.
    """

    def __init__(self, settings: GatewaySettings, keys: KeyStore | None = None) -> None:
        self._settings = settings
        self._keys = keys
        self._limits = Limits(
            requests=settings.rate_limit_requests,
            tokens=settings.rate_limit_tokens,
            concurrency=settings.rate_limit_concurrency,
        )
        self._accounts = Accounts()

    @override
    def on_request(self, context: RequestContext) -> None:
        if context.route.always:
            return
        caller, limits = context.caller, self._limits
        if caller.anonymous:
            client = client_of(context.peer)
        else:
            client = f"key {caller.name}"
            if self._keys is not None:
                limits = caller.limits.over(self._keys.defaults).over(limits)
        context.queue_client = QueueClient(client, batch=_is_batch(context))
        set_client(context.queue_client)
        if limits.requests is None and limits.tokens is None and limits.concurrency is None:
            return
        now = asyncio.get_running_loop().time()
        account = self._accounts.of(client)
        if limits.concurrency is not None and account.running >= limits.concurrency:
            raise _exceeded(f"{limits.concurrency} concurrent requests", 1)
        if limits.tokens is not None and context.request.method == "POST":
            _check_tokens(account, limits.tokens, now)
        if limits.requests is not None:
            _count_request(context, account, limits.requests, now)
        account.running += 1
        context.reservation = Reservation(account, limits)

    @override
    async def before_call(self, context: RequestContext, call: Call) -> None:
        if context.permit is not None:
            return
        if context.reservation is not None:
            _reserve(context.reservation, context, call)
        assert context.queue_client is not None
        context.permit = await context.gateway.queue.acquire(context.queue_client, requests_in(call))

    @override
    def on_finish(self, context: RequestContext) -> None:
        permit, context.permit = context.permit, None
        if permit is not None:
            context.gateway.queue.release(permit)
            context.queue_seconds = permit.client.waited
        reserved, context.reservation = context.reservation, None
        if reserved is not None:
            reserved.account.running -= reserved.requests
            if reserved.account.tokens is not None and reserved.estimate is not None:
                reserved.account.tokens.use(used_tokens(context, reserved.estimate) - reserved.tokens)


def _is_batch(context: RequestContext) -> bool:
    """Whether the request waits behind interactive ones: its key says so, or the request itself. A header cannot raise
    what the key sets.
    """
    sent = context.request.headers.get(PRIORITY_HEADER, "").strip().lower()
    if sent not in ("", "interactive", "batch"):
        raise RefusedError(
            400, "invalid_priority", f"{PRIORITY_HEADER} must be interactive or batch, not {sent[:40]!r}."
        )
    return context.caller.batch or sent == "batch"


def _check_tokens(account: Account, limit: int, now: float) -> None:
    bucket = account.tokens
    if bucket is None:
        bucket = account.tokens = TokenBucket(limit, now)
    if bucket.left(limit, now) <= 0:
        raise _exceeded(f"{counted(limit, 'token')} per minute", bucket.seconds_until(1))


def _count_request(context: RequestContext, account: Account, limit: int, now: float) -> None:
    bucket = account.requests
    if bucket is None:
        bucket = account.requests = TokenBucket(limit, now)
    left = bucket.left(limit, now)
    headers = context.extra_headers
    headers["X-Ratelimit-Limit-Requests"] = str(limit)
    headers["X-Ratelimit-Remaining-Requests"] = str(max(0, int(left) - 1))
    headers["X-Ratelimit-Reset-Requests"] = f"{bucket.seconds_until(limit):.0f}s"
    if left < 1:
        raise _exceeded(f"{counted(limit, 'request')} per minute", bucket.seconds_until(1))
    bucket.use(1)


def _reserve(reservation: Reservation, context: RequestContext, call: Call) -> None:
    """Reserve the tokens of the body and the requests beyond the one that was counted before it was read."""
    account, limits = reservation.account, reservation.limits
    if limits.concurrency is not None:
        requests = requests_in(call)
        if call.items:
            # Texts to embed or rank come in batches of hundreds, which the engine takes as it can: a larger batch
            # counts as the limit, so it is refused (429) while its client has other requests.
            requests = min(requests, limits.concurrency)
        elif requests > limits.concurrency:
            # No waiting helps, so there is no `Retry-After`, and no status that clients send again.
            raise RefusedError(
                400, "rate_limit_exceeded",
                f"This request alone counts as {requests} concurrent requests; the limit is {limits.concurrency}.",
                param=_multiplying_field(call), hint="Reduce it.",
            )  # fmt: skip
        if account.running - reservation.requests + requests > limits.concurrency:
            raise _exceeded(f"{limits.concurrency} concurrent requests (n choices and inputs count separately)", 1)
        account.running += requests - reservation.requests
        reservation.requests = requests
    if limits.tokens is not None:
        _check_tokens(account, limits.tokens, asyncio.get_running_loop().time())
        assert account.tokens is not None
        reservation.estimate = estimate_tokens(context, call)
        reservation.tokens = min(reservation.estimate.total, limits.tokens)
        account.tokens.use(reservation.tokens)


def _exceeded(limit: str, seconds: float) -> RefusedError:
    retry_after = math.ceil(max(1, min(seconds, 3600)))
    return RefusedError(429, "rate_limit_exceeded", f"Rate limit exceeded: {limit}.", retry_after=retry_after)


def _multiplying_field(call: Call) -> str:
    """The client's field that makes one request count as several."""
    prompts = {id(arguments.get("messages", arguments.get("prompt"))) for arguments in call.arguments}
    return "prompt" if len(prompts) > 1 else "n"
