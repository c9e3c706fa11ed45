"""Events of requests and, once a second while somebody watches, of queues and tokens."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from miner.core._typing import override
from miner.gateway.context import RequestContext
from miner.gateway.dialect import Call
from miner.gateway.errors import failure_of
from miner.gateway.middleware.base import Middleware
from miner.gateway.state import Gateway

_SAMPLE_SECONDS = 1.0


class Events(Middleware):
    """Publishes what happens on the gateway's feed."""

    def __init__(self) -> None:
        self._gateway: Gateway | None = None
        self._stop_listening: Callable[[], None] | None = None

    @override
    async def on_startup(self, gateway: Gateway) -> None:
        self._gateway = gateway
        engine_events = gateway.service.engine_events
        if engine_events is not None:
            self._stop_listening = engine_events.listen(gateway.feed.engine_event)
        gateway.background.start("event sampler", self._sample)

    @override
    async def on_cleanup(self, gateway: Gateway) -> None:
        if self._stop_listening is not None:
            self._stop_listening()

    @override
    async def before_call(self, context: RequestContext, call: Call) -> None:
        if call.arguments or call.items:  # else it only loads a model or counts tokens
            context.gateway.feed.publish(
                "request", id=context.id, state="started", model=call.model, client=context.caller.name,
                route=context.route.canonical or context.route.path,
            )  # fmt: skip

    @override
    def on_finish(self, context: RequestContext) -> None:
        call = context.call
        if call is None or not (call.arguments or call.items):
            return  # one that was refused after it had begun ends here too
        loop, usage, first = asyncio.get_running_loop(), context.reported_usage, context.first_token_at
        seconds = loop.time() - context.started_at
        context.gateway.feed.publish(
            "request", id=context.id, state="cancelled" if context.disconnected else "finished", model=call.model,
            client=context.caller.name, status=context.status, seconds=round(seconds, 3),
            queue_seconds=context.queue_seconds,
            first_token_seconds=None if first is None else round(first - context.started_at, 3),
            prompt_tokens=usage.prompt_tokens if usage is not None else None,
            completion_tokens=usage.completion_tokens if usage is not None else None,
            error=failure_of(context.error).code if context.error is not None else None,
        )  # fmt: skip

    async def _sample(self) -> None:
        """Publish queues, slots and token rates once a second, when they have changed."""
        gateway = self._gateway
        assert gateway is not None
        last: dict[str, object] = {}
        totals: Counter[str] = Counter()
        while True:
            await asyncio.sleep(_SAMPLE_SECONDS)
            if not gateway.feed.watched:
                last, totals = {}, Counter()
                continue
            health = await gateway.health.current()
            running = Counter(_model_of(request) for request in gateway.running if isinstance(request, RequestContext))
            now = _generated(gateway)
            rates = {model: count - totals[model] for model, count in now.items() if count > totals[model]}
            sample: dict[str, object] = {
                "running": dict(running), "waiting": gateway.queue.waiting + gateway.queue.waiting_at_backend,
                "tokens_per_second": rates if totals else {},
                "engines": [
                    {
                        "model": each.model, "state": each.state, "memory": each.memory, "slots": each.slots,
                        "slots_busy": each.slots_busy, "queued": each.queued,
                    }
                    for each in health.engines
                ],
            }  # fmt: skip
            totals = now
            if sample != last:
                gateway.feed.publish("load", **sample)
                last = sample


def _model_of(context: RequestContext) -> str:
    return (context.call.model if context.call is not None else None) or "default"


def _generated(gateway: Gateway) -> Counter[str]:
    """Tokens generated so far by requests in flight and finished ones, by model."""
    generated: Counter[str] = Counter()
    if gateway.counters is not None:
        for (_, model), counters in gateway.counters.models.items():
            generated[model] += int(counters.output_tokens.total)
    for request in gateway.running:
        if isinstance(request, RequestContext):
            generated[_model_of(request)] += request.chunks
    return generated
