"""Tracing: two spans for each call of a model, in OpenTelemetry's conventions: the request that a client has sent, and
in it the call of the model. Prompts and replies are in neither.

Both begin before the call, so that the server behind can be told whose child its own span is; all else is added when
the request ends, from what the context has: a token costs nothing.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from miner.core._typing import override
from miner.core.http.trace_context import trace_lines
from miner.gateway.context import RequestContext
from miner.gateway.dialect import Call
from miner.gateway.middleware.base import Middleware
from miner.gateway.state import Gateway
from miner.gateway.telemetry import conventions as names
from miner.gateway.telemetry.labels import error_type, operation_of
from miner.gateway.telemetry.setup import end_within, make_tracer_provider
from miner.gateway.telemetry.spans import call_attributes, call_result, http_attributes, http_result

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.trace import Span, TracerProvider

_FLUSH_SECONDS = 3.0


@dataclass(eq=False, slots=True)
class RequestSpans:
    """The spans of one request."""

    request: Span
    call: Span
    called_at: float
    """When the call began, on the loop's clock."""


def make_tracing(environment: Mapping[str, str] | None = None) -> Tracing | None:
    """The middleware, if the environment enables traces (`OTEL_...`) and the packages are installed.

    Raises:
        ConfigError: one of the variables cannot be used.
    """
    made = make_tracer_provider(environment)
    return None if made is None else Tracing(made.provider, owned=made.owned, propagates=made.propagates)


class Tracing(Middleware):
    """Writes the spans.

    Args:
        provider: where the spans go.
        owned: it is shut down with the server.
        propagates: whether `traceparent` is read from requests, and sent to the server behind.
    """

    def __init__(self, provider: TracerProvider, *, owned: bool = False, propagates: bool = True) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        from miner import __version__

        self._provider = provider
        self._owned = owned
        self._tracer = provider.get_tracer("miner.gateway", __version__)
        self._propagator = TraceContextTextMapPropagator() if propagates else None

    @override
    async def on_cleanup(self, gateway: Gateway) -> None:
        shutdown = getattr(self._provider, "shutdown", None)
        if self._owned and shutdown is not None:
            await end_within(shutdown, "traces", _FLUSH_SECONDS)

    @override
    async def before_call(self, context: RequestContext, call: Call) -> None:
        spans = context.trace = self._begin(context, asyncio.get_running_loop().time())
        if self._propagator is None:
            return
        from opentelemetry.trace import set_span_in_context

        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, set_span_in_context(spans.call))
        trace_lines.set("".join(f"{name}: {value}\r\n" for name, value in carrier.items()).encode("ascii", "ignore"))

    @override
    def on_finish(self, context: RequestContext) -> None:
        trace_lines.set(b"")  # the connection's next request may be of another trace
        if context.call is None:
            return
        spans = context.trace
        if not isinstance(spans, RequestSpans):  # it was refused before the call
            spans = self._begin(context, context.started_at)
        ended, failure = time.time_ns(), error_type(context)
        if spans.call.is_recording():
            first = context.first_token_at
            spans.call.set_attributes(call_result(context, None if first is None else first - spans.called_at))
            _end(spans.call, ended, failure)
        if spans.request.is_recording():
            spans.request.set_attributes(http_result(context))
            # What is the client's own mistake is no error of a server.
            ours = failure == names.CANCELLED or context.status >= 500 or context.streamed
            _end(spans.request, ended, failure if ours else "")

    def _begin(self, context: RequestContext, called_at: float) -> RequestSpans:
        from opentelemetry.trace import SpanKind, set_span_in_context

        now, wall = asyncio.get_running_loop().time(), time.time_ns()
        parent = None
        if self._propagator is not None:
            headers = context.request.headers
            parent = self._propagator.extract(
                {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
            )
        request = self._tracer.start_span(
            f"{context.route.method} {context.route.path}", context=parent, kind=SpanKind.SERVER,
            attributes=http_attributes(context), start_time=wall - int((now - context.started_at) * 1e9),
        )  # fmt: skip
        attributes, operation = call_attributes(context), operation_of(context)
        model = attributes.get(names.REQUEST_MODEL)
        call = self._tracer.start_span(
            f"{operation} {model}" if model else operation, context=set_span_in_context(request),
            kind=SpanKind.CLIENT, attributes=attributes, start_time=wall - int((now - called_at) * 1e9),
        )  # fmt: skip
        return RequestSpans(request, call, called_at)


def _end(span: Span, at: int, failure: str) -> None:
    """End a span, with the type of its error; "": it has none."""
    from opentelemetry.trace import Status, StatusCode

    if failure:
        span.set_attribute(names.ERROR_TYPE, failure)
        span.set_status(Status(StatusCode.ERROR, failure))
    span.end(at)
