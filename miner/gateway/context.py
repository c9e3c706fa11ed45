"""RequestContext: one request on its way through the gateway; its route and its caller."""

from __future__ import annotations

import asyncio
import copy
import logging
import random
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Protocol
from urllib.parse import quote

from aiohttp import web

from miner.config.config import config_of
from miner.core.llms.contract.images import refuse_remote
from miner.core.llms.contract.queue_client import QueueClient
from miner.core.llms.contract.rules import ModelRules, Policy, cost_of
from miner.core.wire import LLMChunk, TokenUsage
from miner.errors import InvalidRequestError, MinerError
from miner.gateway.concurrency import Permit
from miner.gateway.counters import ModelCounters
from miner.gateway.dialect import Call, ErrorShape
from miner.gateway.errors import RefusedError
from miner.gateway.model_backend import backend_of
from miner.gateway.neutralize import neutralize
from miner.gateway.rate_limits import NO_LIMITS, Limits, Reservation
from miner.gateway.state import Gateway
from miner.gateway.unsupported import HEADER, apply_policy, policy_of

logger = logging.getLogger("miner.gateway")

_MAX_MODEL_NAME = 512
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")

Access = Literal["open", "key", "admin"]
"""open: anyone; key: any API key, once there are keys; admin: a key with the admin right, or, without keys, a caller
on this machine while no other machine can call."""
Handler = Callable[["RequestContext"], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """One method on one path: who may call it, and in which dialect."""

    method: str
    path: str
    """As aiohttp writes it: `/v1/models/{model:.+}`."""
    handler: Handler
    access: Access
    errors: ErrorShape
    """How this dialect writes an error."""
    summary: str = ""
    """One line for the OpenAPI document."""
    body: type | None = None
    """The struct that its body is decoded to."""
    content_types: str | tuple[str, ...] = "application/json"
    """Media types of its response."""
    body_type: str = "application/json"
    """Media type of its body."""
    always: bool = False
    """Served also while the server shuts down, and not rate limited."""
    id_header: str | None = None
    """Where this dialect's clients look for the id of a request, besides `X-Request-Id`."""
    canonical: str | None = None
    """The path of the route that this one repeats (`routing.py`), if it does."""
    for_headers: Callable[[Mapping[str, str]], Route | None] | None = None
    """Returns the route for a request with these headers, where two APIs have the same path; None: this one."""

    @property
    def is_fallback(self) -> bool:
        """Whether it stands for the paths that no other route has."""
        return self.method == "*"


ROUTE_TABLE = web.AppKey("routes", tuple[Route, ...])
"""The routes of an application."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request, and what it may do."""

    name: str
    """Name of the key, for the log; never the key itself."""
    admin: bool = False
    models: frozenset[str] | None = None
    """Models that it may use; None: all."""
    limits: Limits = NO_LIMITS
    """Limits that its key sets."""
    batch: bool = False
    """Whether its requests wait behind those of interactive callers."""
    unsupported: Policy | None = None
    """What becomes of unsupported parameters in its requests; None: as the server's setting says."""
    revocable: bool = False
    """Whether the key stands in the keys file, which can revoke it."""
    anonymous: bool = False
    """Whether it has sent no key."""
    partition: str = ""
    """What it stores is kept under this name, which no other key has: a name may be given to a new key."""


NOBODY = Caller("nobody", models=frozenset(), anonymous=True)
"""The caller before authentication: no rights."""
ANYBODY = Caller("anybody", anonymous=True)
"""The caller where there are no keys."""
OPERATOR = Caller("anybody", admin=True, anonymous=True)
"""The same, on this machine while no other machine can call."""


def new_id() -> str:
    """32 random hex digits. Not a secret: the system's randomness would cost a system call each time."""
    return f"{random.getrandbits(128):032x}"


class Hooks(Protocol):
    """The hooks of a middleware that the context itself calls."""

    async def before_call(self, context: RequestContext, call: Call) -> None:
        """Called when the body is parsed, before the service is called."""

    def on_chunks(self, context: RequestContext, chunks: list[LLMChunk]) -> None:
        """Called for each batch of a stream."""

    def on_finish(self, context: RequestContext) -> None:
        """Called when the response is complete, or its client has disconnected."""


class RequestContext:
    """One request and its response. Times are those of the loop's clock, in seconds."""

    __slots__ = (
        "__weakref__", "body_reserved", "body_size", "call", "call_started_at", "caller", "characters", "chunks",
        "cost", "disconnected", "error", "extra_headers", "failed_observers", "finish_reasons", "finished",
        "first_token_at", "gateway", "headers_sent", "id", "ignored", "interrupted", "last_token_at", "middleware",
        "model_counters", "peeked", "peer", "permit", "previous_token_at", "queue_client", "queue_seconds",
        "reply_text", "request", "reservation", "response_id", "response_model", "route", "rules", "served",
        "started_at", "status", "streamed", "task", "trace", "usage",
    )  # fmt: skip

    def __init__(self, gateway: Gateway, middleware: Sequence[Hooks], route: Route, request: web.Request) -> None:
        self.gateway = gateway
        self.middleware = middleware
        self.route = (route.for_headers(request.headers) if route.for_headers is not None else None) or route
        self.request = request
        sent_id = request.headers.get("X-Request-Id")
        self.id = sent_id if sent_id is not None and _REQUEST_ID.fullmatch(sent_id) else new_id()
        """The client's `X-Request-Id` if it is fit for logs, else ours."""
        self.peer = gateway.proxies.client(request.remote or "unix", request.headers)
        """Address of the client: of the connection, or behind a trusted proxy what that forwards."""
        self.started_at = asyncio.get_running_loop().time()
        self.body_size = 0
        """Bytes of the body that were read, and of what was stored before and belongs to it."""
        self.body_reserved = 0
        """Bytes of those that count against the budget of all bodies."""
        self.caller: Caller = NOBODY
        """Set by authentication."""
        self.call: Call | None = None
        """The parsed body; None before, and on routes that call no model."""
        self.rules = ModelRules()
        """What the operator says of the model that the body names."""
        self.served: str | None = None
        """The model that serves it, where the operator has named the models: a fallback may."""
        self.cost: float | None = None
        """What its tokens cost; known at its end, where the model has a price."""
        self.peeked: list[bytes] | None = None
        """The body, where something had to look at it before it is read."""
        self.call_started_at: float | None = None
        """When the service was called: before that the body was read, and the request queued."""
        self.first_token_at: float | None = None
        self.previous_token_at: float | None = None
        """When the batch before the last one arrived."""
        self.last_token_at: float | None = None
        self.chunks = 0
        """Chunks of the stream so far."""
        self.characters = 0
        """Characters generated so far, reasoning included."""
        self.usage: TokenUsage | None = None
        """Tokens as the backend reports them. One that does not count may report zeros: see `reported_usage`."""
        self.finish_reasons: dict[int, str] = {}
        """Why each choice of a generation ended, by its index; one that broke off has none."""
        self.response_id: str | None = None
        """The id of the response as its client sees it; None: it has none, or has not begun."""
        self.response_model: str | None = None
        """The model that the response names."""
        self.trace: object | None = None
        """What tracing remembers of it."""
        self.ignored: list[str] = []
        """Parameters that change nothing here; listed in `X-Miner-Ignored-Params`."""
        self.status = 0
        """HTTP status of the response; 499: the client closed the connection before it."""
        self.streamed = False
        self.headers_sent = False
        """Whether the headers of a streamed response were sent: the status is final then."""
        self.disconnected = False
        """Whether the client disconnected before its response was complete."""
        self.error: MinerError | None = None
        """The error of the request, also in the middle of a stream."""
        self.failed_observers: tuple[Hooks, ...] = ()
        """Middleware whose `on_chunks` has failed."""
        self.finished = False
        self.task: asyncio.Task[object] | None = None
        """The task that `interrupt` cancels."""
        self.interrupted = False
        self.extra_headers: dict[str, str] = {}
        """Response headers that middleware add."""
        self.queue_client: QueueClient | None = None
        """Its client in queues: the key, or without keys the address."""
        self.reservation: Reservation | None = None
        """Its reservation from its client's rate limits."""
        self.permit: Permit | None = None
        """Its permit from the queue to be sent to the backend."""
        self.queue_seconds: float | None = None
        """How long it waited in queues; known at its end. None: it has not called the service."""
        self.model_counters: ModelCounters | None = None
        """Where the tokens of its stream are counted."""
        self.reply_text: list[str] = []
        """The text of its stream, where prompts are logged."""

    @property
    def reported_usage(self) -> TokenUsage | None:
        """The tokens that the backend reports; None: it reports none, or only zeros, as a generate-only backend may."""
        usage = self.usage
        return usage if usage is not None and (usage.prompt_tokens or usage.completion_tokens) else None

    def headers(self, content_type: str = "application/json") -> dict[str, str]:
        """The headers of every response."""
        headers = {
            "Content-Type": content_type, "X-Request-Id": self.id, "Server": "miner",
            "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", **self.extra_headers,
        }  # fmt: skip
        if self.route.id_header is not None:
            headers[self.route.id_header] = self.id
        if self.served is not None:
            headers["X-Miner-Model"] = self.served if self.served.isascii() else quote(self.served)
        if self.ignored:
            headers["X-Miner-Ignored-Params"] = ", ".join(self.ignored)
        return headers

    async def start_call(self, call: Call) -> None:
        """Run the hooks between the parsed body and the service."""
        self.call = call
        await backend_of(self.gateway.service, call.model)  # whose fields `apply_policy` asks for
        self.apply_policy(call)
        if call.model is not None and len(call.model) > _MAX_MODEL_NAME:
            raise InvalidRequestError(f"model is longer than {_MAX_MODEL_NAME} characters.", param="model")
        if call.remote_images and not config_of(self.gateway.service.config).allow_remote_images:
            raise refuse_remote(call.remote_images[0])
        self.ignored += neutralize(call, self.gateway.client_lines)
        for middleware in self.middleware:
            await middleware.before_call(self, call)
        self.call_started_at = asyncio.get_running_loop().time()
        self.gateway.call_started(self)

    def apply_policy(self, call: Call) -> None:
        """Refuse or list what the call left out. Idempotent: `start_call` does it.

        Raises:
            RequestError: names the client's field.
        """
        self.rules = rules = self.gateway.service.rules_of(call.model)
        policy, by_model = self._policy(call)
        skip, refuse = (rules.skip, rules.refuse) if by_model else ((), ())
        apply_policy(call, policy, rules.engine_fields, skip=skip, refuse=refuse)
        self.ignored += [name for name in call.ignored if name not in self.ignored]

    def _policy(self, call: Call) -> tuple[Policy, bool]:
        """What becomes of unsupported parameters: as the request says, else its key, else the model, else the server;
        and whether the model's lists of single parameters apply.
        """
        sent = self.request.headers.get(HEADER)
        if sent:
            return policy_of(sent, HEADER), False
        word = call.arguments[0].get("unsupported") if call.arguments else None
        if isinstance(word, str):
            return policy_of(word, "unsupported"), False
        if self.caller.unsupported is not None:
            return self.caller.unsupported, False
        return self.rules.unsupported or self.gateway.settings.serve_unsupported, True

    def note_served(self, model: str | None) -> None:
        """Note which model serves the request; its clients read it where its name may mean several or another one."""
        self.response_model = model
        if self.rules.names:
            self.served = model

    def record_chunks(self, chunks: list[LLMChunk], choice: int = 0) -> None:
        """Count a batch of the stream.

        Args:
            choice: the index of the choice that it belongs to.
        """
        now = asyncio.get_running_loop().time()
        if self.first_token_at is None:
            self.first_token_at = now
        self.previous_token_at = self.last_token_at
        self.last_token_at = self.gateway.last_activity_at = now
        self.chunks += len(chunks)
        for chunk in chunks:
            if chunk.content is not None:
                self.characters += len(chunk.content)
            elif chunk.reasoning is not None:
                self.characters += len(chunk.reasoning)
            if chunk.finish_reason is not None:
                self.finish_reasons[choice] = chunk.finish_reason
        usage = chunks[-1].usage
        if usage is not None:
            several = self.call is not None and len(self.call.arguments) > 1
            self.usage = self.usage.plus(usage) if several and self.usage is not None else usage
        for middleware in self.middleware:
            try:
                middleware.on_chunks(self, chunks)
            except MinerError:
                raise  # it refuses to go on
            except BaseException:  # an observer breaks no stream
                if middleware not in self.failed_observers:
                    self.failed_observers = (*self.failed_observers, middleware)
                    name = type(middleware).__name__
                    logger.exception("Request %s: on_chunks of %s failed; the stream continues.", self.id, name)

    def finish(self) -> None:
        """End the request: run the `on_finish` hooks. Idempotent."""
        if self.finished:
            return
        self.finished = True
        self.gateway.bodies.release(self.body_reserved)
        if self.call_started_at is not None:
            served = self.gateway.service.rules_of(self.served) if self.served is not None else self.rules
            self.cost = cost_of(served.price, self.reported_usage, self.chunks)
        self.gateway.request_finished(self, succeeded=self.error is None and self.status != 499)
        for middleware in reversed(self.middleware):
            try:
                middleware.on_finish(self)
            except BaseException:  # the others have to release what they hold
                logger.exception("Request %s: on_finish of %s failed.", self.id, type(middleware).__name__)
        self.task = None  # its context holds this object, and would keep the body until garbage collection
        if self.error is not None:
            # It has been sent and logged. Its frames are such a circle too.
            self.error = self.error.with_traceback(None)
            self.error.__context__ = None

    def count_stored(self, size: int) -> None:
        """Count what the body refers to like the body itself.

        Raises:
            RefusedError: 503, there is no room for it.
        """
        self.body_size += size
        self.body_reserved = self.gateway.bodies.grow(self.body_reserved, self.body_size)

    def detach(self) -> RequestContext:
        """A context for work that goes on when the response is complete. It takes over what the request has reserved,
        and ends with its own `finish`.
        """
        other = copy.copy(self)
        other.task, other.finished = None, False
        other.ignored, other.extra_headers, other.reply_text = [*self.ignored], {**self.extra_headers}, []
        other.finish_reasons = {}
        self.reservation = self.permit = None
        self.body_reserved = 0
        self.gateway.requests.add(other)
        return other

    def interrupt(self) -> None:
        """End it because the server shuts down: what it awaits is cancelled, and its client gets an error."""
        if self.task is not None and not self.interrupted:
            self.interrupted = True
            self.task.cancel()


class Interruptible:
    """Turns the cancelling of `RequestContext.interrupt` into an error, as asyncio.timeout does with its own. A client
    that disconnects cancels the task as well: that stays as it is.
    """

    __slots__ = ("_cancelling", "_context")

    def __init__(self, context: RequestContext) -> None:
        self._context = context
        self._cancelling = 0

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._context.task = task
        self._cancelling = task.cancelling()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        context = self._context
        if kind is not asyncio.CancelledError or not context.interrupted or context.task is None:
            return
        task, context.task = context.task, None
        if task.uncancel() <= self._cancelling:
            raise RefusedError(503, "shutting_down", "The server is shutting down.", retry_after=5) from None
