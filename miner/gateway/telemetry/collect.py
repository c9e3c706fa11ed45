"""Collector: the values of all metrics now, the same for both ways out. It waits for no server that is slow."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from miner.core.llms.contract.server_load import ServerLoad
from miner.core.wire import EngineStatus, Health
from miner.errors import MinerError
from miner.gateway.counters import Counters, Histogram, Samples
from miner.gateway.errors import ErrorBoundary
from miner.gateway.state import Gateway
from miner.gateway.telemetry import conventions as names
from miner.gateway.telemetry.metric_table import METRICS, SPECS, MetricSpec
from miner.gateway.telemetry.model_load import ModelLoad, model_loads
from miner.gateway.telemetry.refreshed import Refreshed

Value = float | Histogram
_LOAD_SECONDS = 0.5
"""How old the load of a server may be: endpoint pickers look many times a second."""
_FIRST_HEALTH_SECONDS = 2.0
"""How long the first scrape waits for the backend's health, which takes up to 1.5 s: "down" would be wrong."""
_INFERENCE = (names.CHAT, names.TEXT_COMPLETION)


class Collector:
    """Reads the counters of one gateway."""

    def __init__(self, gateway: Gateway, counters: Counters) -> None:
        self._gateway, self._counters = gateway, counters
        unknown = Health(state="unavailable", reason="its health is not known yet")
        self._health = Refreshed(gateway.health.current, unknown, max_age=0.0, first_wait=_FIRST_HEALTH_SECONDS)
        self._loads: Refreshed[list[ServerLoad]] = Refreshed(self._server_loads, [], max_age=_LOAD_SECONDS)

    async def _server_loads(self) -> list[ServerLoad]:
        try:
            with ErrorBoundary():
                return await self._gateway.service.server_loads()
        except MinerError:  # `health` says what is wrong with it
            return []

    async def collect(self) -> Samples:
        """The values of all metrics."""
        health, servers = await self._health.recent(), await self._loads.recent()
        engines = health.engines or []
        self._counters.count_engines(engines)
        samples: defaultdict[str, list[tuple[Sequence[str], Value]]] = defaultdict(list)
        for spec, *labels, value in self._values(engines, servers, up=bool(health)):
            samples[spec.prometheus_name].append((labels, value))
        return samples

    async def close(self) -> None:
        """Stop asking others."""
        await self._health.close()
        await self._loads.close()

    def _values(
        self, engines: Sequence[EngineStatus], servers: Sequence[ServerLoad], *, up: bool
    ) -> Iterator[tuple[MetricSpec, *tuple[str, ...], Value]]:
        counters = self._counters
        for (route, method, status), duration in counters.requests.items():
            yield SPECS[names.HTTP_REQUEST_DURATION], route, method, str(status), duration
        yield from _of_calls(self._gateway, counters)
        for model, cost in counters.cost.items():
            yield SPECS["miner.cost"], model, cost
        queue = self._gateway.queue
        queued_at_backend = queue.waiting_at_backend
        yield SPECS["miner.request.queue_time"], counters.queue_time
        yield SPECS["miner.requests.running"], len(self._gateway.running) - queued_at_backend
        yield SPECS["miner.requests.queued"], queue.waiting + queued_at_backend
        yield SPECS["miner.request.slots"], queue.permits.limit
        yield SPECS["miner.client.disconnects"], counters.disconnects
        yield SPECS["miner.backend.up"], float(up)
        for load in model_loads(self._gateway, counters, engines, servers):
            yield from _of_load(load)
        for model, starts in counters.engine_starts.items():
            yield SPECS["miner.engine.starts"], model, starts
        for engine in engines:
            yield SPECS["miner.engine.state"], engine.model, engine.state, 1
            yield SPECS["miner.engine.resident_memory"], engine.model, engine.memory or 0
            yield SPECS["miner.engine.slots_busy"], engine.model, engine.slots_busy
            yield SPECS["miner.engine.restarts"], engine.model, engine.restarts


def _of_calls(gateway: Gateway, counters: Counters) -> Iterator[tuple[MetricSpec, *tuple[str, ...], Value]]:
    usage = METRICS[names.TOKEN_USAGE.replace(".", "_")]
    for (operation, model), counted in counters.models.items():
        labels = operation, gateway.service.backend_of(model).name, model
        for error_type, duration in counted.duration.items():
            yield SPECS[names.SERVER_REQUEST_DURATION], *labels, error_type, duration
        yield usage, *labels, "input", counted.input_tokens
        yield usage, *labels, "output", counted.output_tokens
        if operation == names.EMBEDDINGS:
            yield SPECS[names.EMBEDDED_PER_REQUEST], *labels, counted.input_tokens
        if operation not in _INFERENCE:
            continue  # nothing else has a first token, and the conventions count the tokens of generations
        yield SPECS[names.SERVER_TIME_TO_FIRST_TOKEN], *labels, counted.time_to_first_token
        yield SPECS[names.SERVER_TIME_PER_OUTPUT_TOKEN], *labels, counted.time_per_output_token
        yield SPECS[names.INPUT_PER_REQUEST], *labels, counted.input_tokens
        yield SPECS[names.OUTPUT_PER_REQUEST], *labels, counted.output_tokens
        for name, tokens in (
            (names.USED_INPUT, counted.input_tokens.total), (names.USED_OUTPUT, counted.output_tokens.total),
            (names.USED_CACHE_READ, counted.cached_tokens), (names.USED_REASONING, counted.reasoning_tokens),
        ):  # fmt: skip
            yield SPECS[name], *labels, names.UNKNOWN_MODALITY, tokens


def _of_load(load: ModelLoad) -> Iterator[tuple[MetricSpec, *tuple[str, ...], Value]]:
    model = load.model
    yield SPECS["miner.model.requests.running"], model, load.running
    yield SPECS["miner.model.requests.waiting"], model, load.waiting
    if load.kv_cache_usage is not None:
        yield SPECS["miner.model.kv_cache.usage"], model, load.kv_cache_usage
    if load.slots is not None:
        yield SPECS["miner.model.slots"], model, load.slots
    if load.llamacpp:
        yield METRICS["llamacpp:requests_processing"], model, load.running
        yield METRICS["llamacpp:requests_deferred"], model, load.waiting
    server = load.server
    if server is not None and server.block_size is not None:
        yield METRICS["vllm:cache_config_info"], model, server.block_size, server.num_blocks or "", 1
    if server is not None and server.lora is not None:
        lora = server.lora
        yield METRICS["vllm:lora_requests_info"], model, lora.max_adapters, lora.running, lora.waiting, lora.changed_at
