"""The table of all metrics, for both ways out: `/metrics` and OTLP.

Names follow OpenTelemetry's conventions where there is one; the others begin with `miner.`. The name in Prometheus is
made of that, as OpenTelemetry says how, save where something else reads it under a name of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from miner.gateway.telemetry import conventions as names

_SUFFIXES = {"s": "_seconds", "By": "_bytes"}


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric."""

    name: str | None
    """In OTLP; None: it is only in `/metrics`."""
    type: Literal["counter", "gauge", "histogram"]
    help: str
    attributes: tuple[str, ...] = ()
    unit: str = ""
    """Of UCUM: s, By, {token}."""
    other_name: str = ""
    """In Prometheus, where that does not follow from `name`."""

    @property
    def prometheus_name(self) -> str:
        """In Prometheus, without the `_total` that it adds to names of counters."""
        if self.name is None or self.other_name:
            return self.other_name
        return self.name.replace(".", "_") + _SUFFIXES.get(self.unit, "")

    @property
    def labels(self) -> tuple[str, ...]:
        """The attributes' names in Prometheus."""
        return tuple(each.replace(".", "_") for each in self.attributes)


_GEN_AI = (names.OPERATION, names.PROVIDER, names.REQUEST_MODEL)
_TOKENS = (*_GEN_AI, names.TOKEN_MODALITY)
_MODEL = ("model",)
_LOADED = ("model_name",)
_SPECS = (
    MetricSpec(
        names.HTTP_REQUEST_DURATION, "histogram", "Duration of HTTP requests.",
        (names.HTTP_ROUTE, names.HTTP_METHOD, names.HTTP_STATUS), "s",
    ),
    MetricSpec(
        names.SERVER_REQUEST_DURATION, "histogram",
        "Duration of requests to a model, from the headers of the request to the end of the response. error_type is "
        "empty for those that succeeded.", (*_GEN_AI, names.ERROR_TYPE), "s",
    ),
    MetricSpec(
        names.SERVER_TIME_TO_FIRST_TOKEN, "histogram", "From the headers of a streamed request to its first token.",
        _GEN_AI, "s",
    ),
    MetricSpec(
        names.SERVER_TIME_PER_OUTPUT_TOKEN, "histogram",
        "Between tokens of a stream after the first, as the backend sends them.", _GEN_AI, "s",
    ),
    MetricSpec(
        names.USED_INPUT, "counter", "Tokens of prompts, cached ones included.", _TOKENS, "{token}",
    ),
    MetricSpec(
        names.USED_OUTPUT, "counter", "Tokens generated, reasoning included.", _TOKENS, "{token}",
    ),
    MetricSpec(
        names.USED_CACHE_READ, "counter", "Tokens of prompts that were found in a KV cache.", _TOKENS, "{token}",
    ),
    MetricSpec(
        names.USED_REASONING, "counter", "Tokens generated as reasoning.", _TOKENS, "{token}",
    ),
    MetricSpec(names.INPUT_PER_REQUEST, "histogram", "Tokens of the prompt of a generation.", _GEN_AI, "{token}"),
    MetricSpec(names.OUTPUT_PER_REQUEST, "histogram", "Tokens that a generation made.", _GEN_AI, "{token}"),
    MetricSpec(names.EMBEDDED_PER_REQUEST, "histogram", "Tokens of a request for embeddings.", _GEN_AI, "{token}"),
    MetricSpec(
        None, "histogram", "Tokens per request, input or output: the name before release 0.1.0 of the conventions.",
        (*_GEN_AI, names.TOKEN_TYPE), "{token}", names.TOKEN_USAGE.replace(".", "_"),
    ),
    MetricSpec(
        "miner.cost", "counter", "What the tokens of models with a price cost, in the currency of miner.toml.", _MODEL
    ),
    MetricSpec(
        "miner.request.queue_time", "histogram", "Time that requests waited for a slot at the backend.", (), "s"
    ),
    MetricSpec("miner.requests.running", "gauge", "Requests that the backend works on.", (), "{request}"),
    MetricSpec("miner.requests.queued", "gauge", "Requests that wait for a slot at the backend.", (), "{request}"),
    MetricSpec("miner.request.slots", "gauge", "Requests that the backend may work on at once.", (), "{request}"),
    MetricSpec(
        "miner.client.disconnects", "counter", "Clients that disconnected before their response was complete.", (),
        "{request}",
    ),
    MetricSpec("miner.backend.up", "gauge", "Whether the backend can serve."),
    MetricSpec(
        "miner.model.requests.running", "gauge", "Requests that the engine of a loaded model works on.", _LOADED,
        "{request}", "vllm:num_requests_running",
    ),
    MetricSpec(
        "miner.model.requests.waiting", "gauge", "Requests that wait for the engine of a loaded model.", _LOADED,
        "{request}", "vllm:num_requests_waiting",
    ),
    MetricSpec(
        "miner.model.kv_cache.usage", "gauge",
        "Share of the KV cache in use, 0 to 1; of a llama.cpp engine the share of its slots.", _LOADED, "1",
        "vllm:kv_cache_usage_perc",
    ),
    MetricSpec(
        None, "gauge", "The blocks of a vLLM server's KV cache.", (*_LOADED, "block_size", "num_gpu_blocks"), "",
        "vllm:cache_config_info",
    ),
    MetricSpec(
        None, "gauge", "The LoRA adapters of a vLLM server, and when they changed.",
        (*_LOADED, "max_lora", "running_lora_adapters", "waiting_lora_adapters"), "", "vllm:lora_requests_info",
    ),
    MetricSpec(
        None, "gauge", "Requests that a llama.cpp engine works on.", _LOADED, "", "llamacpp:requests_processing"
    ),
    MetricSpec(None, "gauge", "Requests that wait for a llama.cpp engine.", _LOADED, "", "llamacpp:requests_deferred"),
    MetricSpec("miner.model.slots", "gauge", "Requests that a model's engine works on at once.", _LOADED, "{request}"),
    MetricSpec("miner.engine.starts", "counter", "Engine processes seen to start.", _MODEL),
    MetricSpec("miner.engine.state", "gauge", "1 for the state of an engine.", (*_MODEL, "state")),
    MetricSpec("miner.engine.resident_memory", "gauge", "Resident memory of an engine process.", _MODEL, "By"),
    MetricSpec("miner.engine.slots_busy", "gauge", "Requests that an engine works on.", _MODEL, "{request}"),
    MetricSpec("miner.engine.restarts", "counter", "Restarts of an engine after a failure.", _MODEL),
)  # fmt: skip
METRICS = {spec.prometheus_name: spec for spec in _SPECS}
"""All metrics by their name in Prometheus, besides those of the process (`process_*`)."""
SPECS = {spec.name: spec for spec in _SPECS if spec.name is not None}
"""Those that OTLP has, by their name there."""
