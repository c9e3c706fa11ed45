"""What the `OTEL_` variables ask for: where spans and metrics go. The packages are those of the extra `otel`."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from miner.errors import ConfigError
from miner.gateway.telemetry import conventions as names
from miner.gateway.telemetry.check import Signal, check_otlp

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricsData
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.trace import TracerProvider

logger = logging.getLogger("miner.gateway")

_CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
_ONLY = {
    "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "cumulative",
    "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": "explicit_bucket_histogram",
}
"""What would need counters of another kind than those of `/metrics`, and the kind that these are."""
_INSTALL = 'OTEL_ variables are set; %s need `pip install "llm-service-backends[otel]"`.'


@dataclass(frozen=True, slots=True)
class MadeProvider:
    """Where spans go."""

    provider: TracerProvider
    owned: bool
    """Whether it was created here, and is shut down with the server."""
    propagates: bool
    """Whether `traceparent` is read and sent on."""


def _requested(environment: Mapping[str, str]) -> bool:
    """Whether any of the variables asks for telemetry."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    return any(name.startswith("OTEL_") and value for name, value in environment.items())


def exporter_of(signal: Signal, environment: Mapping[str, str]) -> str | None:
    """Where a signal goes: "otlp" or "console"; None: nowhere.

    Raises:
        ConfigError: the variable names an exporter or a protocol that is not supported.
    """
    if not _requested(environment):
        return None
    variable = f"OTEL_{signal.upper()}_EXPORTER"
    default = "otlp" if signal == "traces" else "none"
    exporter = environment.get(variable, "").strip().lower() or default
    if exporter == "none" or (signal == "metrics" and exporter == "prometheus"):
        return None  # `/metrics` is always there
    if exporter not in ("otlp", "console"):
        raise ConfigError(
            f"{variable}={exporter} is not supported.",
            hint="Use otlp, console or none" + ("; /metrics serves Prometheus." if signal == "metrics" else "."),
        )
    if exporter == "otlp":
        check_otlp(signal, environment)
    return exporter


def make_tracer_provider(environment: Mapping[str, str] | None = None) -> MadeProvider | None:
    """Where spans go; None: nowhere, because nobody asks for them or the packages are missing.

    Raises:
        ConfigError: one of the variables cannot be used.
    """
    environment = os.environ if environment is None else environment
    if not _requested(environment):
        return None
    exporter = exporter_of("traces", environment)
    propagators = environment.get("OTEL_PROPAGATORS", "").strip() or "tracecontext"
    propagates = "tracecontext" in [name.strip().lower() for name in propagators.split(",")]
    try:
        from opentelemetry.trace import ProxyTracerProvider, get_tracer_provider
    except ImportError:
        logger.warning(_INSTALL, "traces")
        return None
    _warn_of_capture(environment)
    provider = get_tracer_provider()
    if not isinstance(provider, ProxyTracerProvider):
        return MadeProvider(provider, False, propagates)  # set up already, by `opentelemetry-instrument` for one
    if exporter is None:
        return None
    try:
        from opentelemetry.sdk.trace import TracerProvider as SDKProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

        from miner.gateway.telemetry.reporting import ReportingSpanExporter
    except ImportError:
        logger.warning(_INSTALL, "traces")
        return None
    try:
        created = SDKProvider(resource=make_resource(environment), shutdown_on_exit=False)
        out = ConsoleSpanExporter() if exporter == "console" else ReportingSpanExporter()
        created.add_span_processor(BatchSpanProcessor(out))
    except ValueError as error:
        raise ConfigError(f"The OTEL_ variables cannot be used: {error}.") from error
    return MadeProvider(created, True, propagates)


@dataclass(frozen=True, slots=True)
class MetricsSender:
    """Where metrics go."""

    send: Callable[[MetricsData], object]
    """Blocks for as long as the exporter's timeout."""
    resource: Resource
    interval: float
    """Seconds between two exports."""


def make_metrics_sender(environment: Mapping[str, str]) -> MetricsSender | None:
    """Where metrics go besides `/metrics`; None: nowhere.

    Raises:
        ConfigError: one of the variables cannot be used.
    """
    exporter = exporter_of("metrics", environment)
    if exporter is None:
        return None
    for variable, only in _ONLY.items():
        value = environment.get(variable, "").strip()
        if value.lower() not in ("", only):
            raise ConfigError(
                f"{variable}={value} is not supported: the metrics are {only}.",
                hint=f"Set it to {only}; a collector can convert them.",
            )
    try:
        from opentelemetry.sdk.metrics.export import ConsoleMetricExporter

        from miner.gateway.telemetry.reporting import ReportingMetricExporter
    except ImportError:
        logger.warning(_INSTALL, "metrics over OTLP")
        return None
    interval = _milliseconds(environment, "OTEL_METRIC_EXPORT_INTERVAL", 60000.0) / 1000
    try:
        send = ConsoleMetricExporter().export if exporter == "console" else ReportingMetricExporter().send
        return MetricsSender(send, make_resource(environment), interval)
    except ValueError as error:
        raise ConfigError(f"The OTEL_ variables cannot be used: {error}.") from error


def _milliseconds(environment: Mapping[str, str], variable: str, default: float) -> float:
    text = environment.get(variable, "").strip()
    if not text:
        return default
    if not text.isdecimal() or int(text) == 0:
        raise ConfigError(f"{variable}={text} is not a number of milliseconds.", hint="60000 is a minute.")
    return float(text)


def make_resource(environment: Mapping[str, str]) -> Resource:
    """Who sends: `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES`, else miner and its version."""
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    from miner import __version__

    own = Resource({names.SERVICE_NAME: "miner", names.SERVICE_VERSION: __version__})
    base = Resource.create().merge(own)  # the SDK's, among them who made it
    return base.merge(OTELResourceDetector().detect())


def _warn_of_capture(environment: Mapping[str, str]) -> None:
    """What asks for prompts in telemetry has no effect here, and nothing is silent."""
    if environment.get(_CAPTURE, "").strip().lower() not in ("", "false", "no_content"):
        logger.warning(
            "%s has no effect: prompts and replies are never in traces or metrics. --log-prompts logs them here.",
            _CAPTURE,
        )


async def end_within(shutdown: Callable[[], object], what: str, seconds: float) -> None:
    """Send what is left, for so many seconds: exporters retry for ten and more where the collector is down."""
    # A daemon: what it cannot send must not keep the process.
    sending = threading.Thread(target=shutdown, name=f"last {what}", daemon=True)
    sending.start()
    await asyncio.to_thread(sending.join, seconds)
    if sending.is_alive():
        logger.warning("The last %s could not be sent within %g s.", what, seconds)
