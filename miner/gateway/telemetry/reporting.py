"""Exporters that say once that their collector does not take what they send, and once that it does again.

OpenTelemetry's own log each attempt. Neither they nor we log headers: those have keys.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult

from miner.core._typing import override
from miner.core.http.errors import Upstream

logger = logging.getLogger("miner.gateway")


class _Reason(logging.Filter):
    """Keeps what the exporters would log, for the one line of ours."""

    def __init__(self) -> None:
        super().__init__()
        self.last = ""

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING:
            self.last = record.getMessage()
        return False


class Reporter:
    """Says what becomes of one signal.

    Args:
        what: the signal: traces or metrics.
        url: where it goes.
        module: the exporter's, which logs each attempt.
    """

    def __init__(self, what: str, url: str, module: str) -> None:
        self._what = what
        self._url = Upstream(what, url, "OTEL_EXPORTER_OTLP_TIMEOUT").shown_url
        self._failing_since: float | None = None
        self._reason = _Reason()
        theirs = logging.getLogger(module)
        for known in [each for each in theirs.filters if isinstance(each, _Reason)]:
            theirs.removeFilter(known)
        theirs.addFilter(self._reason)

    def note(self, *, sent: bool) -> None:
        """Note what became of an attempt."""
        if sent and self._failing_since is not None:
            seconds = time.monotonic() - self._failing_since
            self._failing_since = None
            logger.warning("The collector at %s takes %s again, after %.0f s.", self._url, self._what, seconds)
        elif not sent and self._failing_since is None:
            self._failing_since = time.monotonic()
            logger.warning(
                "The collector at %s takes no %s: %s They are dropped until it does; requests go on. Check "
                "OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_EXPORTER_OTLP_HEADERS.",
                self._url, self._what, _sentence(self._reason.last),
            )  # fmt: skip


def _sentence(reason: str) -> str:
    """What an exporter has logged, without the names of the classes around it."""
    system = re.search(r"\[Errno -?\d+\] ([\w ,]+)", reason)
    text = system[1] if system else re.sub(r"^Transient error (.*) encountered while exporting .*", r"\1", reason)
    reason = " ".join(text.split())[:200] or "it gave no reason"
    return reason if reason.endswith(".") else f"{reason}."


class ReportingSpanExporter(OTLPSpanExporter):
    """Sends spans to the collector that the `OTEL_` variables name."""

    def __init__(self) -> None:
        super().__init__()
        self._reporter = Reporter("traces", self._endpoint, OTLPSpanExporter.__module__)

    @override
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = super().export(spans)
        self._reporter.note(sent=result is SpanExportResult.SUCCESS)
        return result


class ReportingMetricExporter(OTLPMetricExporter):
    """Sends metrics to the collector that the `OTEL_` variables name."""

    def __init__(self) -> None:
        super().__init__()
        self._reporter = Reporter("metrics", self._endpoint, OTLPMetricExporter.__module__)

    def send(self, metrics: MetricsData) -> bool:
        """Send them; returns whether they were taken. Blocks for as long as the exporter's timeout."""
        sent = self.export(metrics) is MetricExportResult.SUCCESS
        self._reporter.note(sent=sent)
        return sent
