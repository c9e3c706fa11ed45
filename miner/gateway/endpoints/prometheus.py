"""The metrics in Prometheus' formats. Imported when first needed: it needs an extra.

Ours are written here and not by prometheus_client, which takes ten times as long: an endpoint picker scrapes twenty
times a second. What a scraper wants, and the metrics of the process, are the library's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder

from miner.gateway.counters import Histogram, Samples
from miner.gateway.telemetry.metric_table import METRICS, MetricSpec

_SPECIAL = re.compile(r'[\\\n"]')
_ESCAPES = {"\\": r"\\", "\n": r"\n", '"': r"\""}
_END = b"# EOF\n"
"""Of a page in OpenMetrics' format."""


def encode(samples: Samples, accept: str | None) -> tuple[str, bytes]:
    """Content type and body of the response to a scraper that accepts this, with the metrics of the process: those are
    read from files. To be called with samples that do not change.
    """
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    to_text, content_type = choose_encoder(accept or "")
    openmetrics = content_type.startswith("application/openmetrics-text")
    lines = [line for name, spec in METRICS.items() for line in _family(name, spec, samples.get(name, ()), openmetrics)]
    process: bytes = to_text(registry)
    body = "".join(lines).encode() + process.removesuffix(_END)
    return content_type, body + _END if openmetrics else body


def _family(
    name: str, spec: MetricSpec, samples: Sequence[tuple[Sequence[str], float | Histogram]], openmetrics: bool
) -> Iterator[str]:
    """The lines of one metric."""
    counter = f"{name}_total" if spec.type == "counter" else name
    shown = name if openmetrics else counter  # the older format names a counter as its samples
    yield f"# HELP {shown} {spec.help}\n# TYPE {shown} {spec.type}\n"
    labels = spec.labels
    for values, value in samples:
        pairs = ",".join(f'{label}="{_escaped(text)}"' for label, text in zip(labels, values, strict=True))
        if not isinstance(value, Histogram):
            yield f"{counter}{{{pairs}}} {float(value)!r}\n" if pairs else f"{counter} {float(value)!r}\n"
            continue
        before = f'{name}_bucket{{{pairs}{"," if pairs else ""}le="'
        for bound, count in value.buckets():
            yield f'{before}{bound}"}} {count!r}\n'
        total = f"{{{pairs}}}" if pairs else ""
        yield f"{name}_count{total} {count!r}\n{name}_sum{total} {float(value.total)!r}\n"


def _escaped(text: str) -> str:
    return _SPECIAL.sub(lambda found: _ESCAPES[found[0]], text) if _SPECIAL.search(text) else text
