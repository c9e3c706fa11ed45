"""The trace that a request belongs to, for the server that it is sent to.

In a context variable, because the hooks between the caller and the transport do not pass it on. Empty unless a gateway
writes traces: without them a request costs one look-up more.
"""

from __future__ import annotations

from contextvars import ContextVar

trace_lines: ContextVar[bytes] = ContextVar("trace_lines", default=b"")
"""Header lines that name the trace, `traceparent` and `tracestate`, each with its line end."""
