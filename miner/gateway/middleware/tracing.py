"""Tracing: a span for each generation, in OpenTelemetry's `gen_ai` conventions. Prompts and replies are not in it.

The span is created when the request ends, with the times that the context has: streams pay nothing for it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from miner.core._typing import override
from miner.core.wire import UNLIMITED
from miner.errors import ConfigError
from miner.gateway.context import RequestContext
from miner.gateway.middleware.base import Middleware
from miner.gateway.middleware.metrics import error_type, operation_of
from miner.gateway.state import Gateway

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

logger = logging.getLogger("miner.gateway")

_FLUSH_SECONDS = 3.0
_OPTIONS = {
    "max_tokens": "gen_ai.request.max_tokens", "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p", "top_k": "gen_ai.request.top_k", "seed": "gen_ai.request.seed",
    "frequency_penalty": "gen_ai.request.frequency_penalty", "presence_penalty": "gen_ai.request.presence_penalty",
}  # fmt: skip


def make_tracing(environment: Mapping[str, str] = os.environ) -> Tracing | None:
    """The middleware, if the environment enables traces (`OTEL_...`) and the packages are installed."""
    requested = any(name.startswith("OTEL_") and value for name, value in environment.items())
    if not requested or environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    try:
        from opentelemetry.trace import ProxyTracerProvider, get_tracer_provider
    except ImportError:
        logger.warning('OTEL_ variables are set; traces need `pip install "llm-service-backends[otel]"`.')
        return None
    provider = get_tracer_provider()
    if not isinstance(provider, ProxyTracerProvider):
        return Tracing(provider)  # set up already, by `opentelemetry-instrument` for one
    if environment.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp":
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider as SDKProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        logger.warning('OTEL_ variables are set; traces need `pip install "llm-service-backends[otel]"`.')
        return None
    try:
        name = environment.get("OTEL_SERVICE_NAME") or "miner"
        created = SDKProvider(resource=Resource.create({"service.name": name}), shutdown_on_exit=False)
        created.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    except ValueError as error:
        raise ConfigError(f"The OTEL_ variables cannot be used: {error}.") from error
    return Tracing(created, owned=True)


class Tracing(Middleware):
    """Writes the spans.

    Args:
        provider: where the spans go.
        owned: it is shut down with the server.
    """

    def __init__(self, provider: TracerProvider, *, owned: bool = False) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        from miner import __version__

        self._provider = provider
        self._owned = owned
        self._tracer = provider.get_tracer("miner.gateway", __version__)
        self._propagator = TraceContextTextMapPropagator()

    @override
    async def on_cleanup(self, gateway: Gateway) -> None:
        shutdown = getattr(self._provider, "shutdown", None)
        if not self._owned or shutdown is None:
            return
        # It sends what is left, and retries for ten seconds and more where the collector is down. A daemon: what it
        # cannot send must not keep the process.
        sending = threading.Thread(target=shutdown, name="last traces", daemon=True)
        sending.start()
        await asyncio.to_thread(sending.join, _FLUSH_SECONDS)
        if sending.is_alive():
            logger.warning("The last traces could not be sent within %g s.", _FLUSH_SECONDS)

    @override
    def on_finish(self, context: RequestContext) -> None:
        call = context.call
        if call is None:
            return
        from opentelemetry.trace import SpanKind, Status, StatusCode

        now = asyncio.get_running_loop().time()
        ended = time.time_ns()
        headers = context.request.headers
        parent = {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
        operation = operation_of(context)
        span = self._tracer.start_span(
            f"{operation} {call.model}" if call.model else operation,
            context=self._propagator.extract(parent),
            kind=SpanKind.SERVER,
            attributes=_attributes(context, operation),
            start_time=ended - int((now - context.started_at) * 1e9),
        )
        first = context.first_token_at
        if first is not None:
            span.add_event("gen_ai.first_token", timestamp=ended - int((now - first) * 1e9))
        kind = error_type(context)
        if kind:
            span.set_attribute("error.type", kind)
            if kind == "cancelled" or context.status >= 500 or context.streamed:
                span.set_status(Status(StatusCode.ERROR, kind))
        span.end(ended)


def _attributes(context: RequestContext, operation: str) -> dict[str, Any]:
    call, usage = context.call, context.reported_usage
    name = context.served or (call.model if call is not None else None)
    attributes: dict[str, Any] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": context.gateway.service.backend_of(name).name,
        "http.request.method": context.route.method,
        "http.route": context.route.path,
        "http.response.status_code": context.status or 200,
        "client.address": context.peer,
        "miner.request.id": context.id,
        "miner.key": context.caller.name,
        "miner.stream": context.streamed,
    }
    if call is not None:
        if call.model:
            attributes["gen_ai.request.model"] = call.model[:200]
        for option, value in (call.arguments[0] if call.arguments else {}).items():
            unlimited = option == "max_tokens" and value == UNLIMITED
            if option in _OPTIONS and isinstance(value, int | float) and not unlimited:
                attributes[_OPTIONS[option]] = value
        if len(call.arguments) > 1:
            attributes["gen_ai.request.choice.count"] = len(call.arguments)
    if usage is not None:
        attributes["gen_ai.usage.input_tokens"] = usage.prompt_tokens
        attributes["gen_ai.usage.output_tokens"] = usage.completion_tokens
    if context.queue_seconds is not None:
        attributes["miner.queue.seconds"] = context.queue_seconds
    return attributes
