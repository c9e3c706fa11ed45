"""The load of each loaded model: of our own engines, of the servers behind, and of what waits in the gateway."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from miner.core.llms.contract.server_load import ServerLoad
from miner.core.wire import EngineStatus
from miner.gateway.context import RequestContext
from miner.gateway.counters import Counters
from miner.gateway.state import Gateway
from miner.gateway.telemetry.labels import model_of

_LOADED = ("ready", "starting", "sleeping")


@dataclass(slots=True)
class ModelLoad:
    """The load of one model."""

    model: str
    running: int = 0
    waiting: int = 0
    slots: int | None = None
    kv_cache_usage: float | None = None
    llamacpp: bool = False
    """Whether a llama.cpp engine serves it."""
    server: ServerLoad | None = None
    """What its server says, if one behind does."""


def model_loads(
    gateway: Gateway, counters: Counters, engines: Iterable[EngineStatus], servers: Sequence[ServerLoad]
) -> list[ModelLoad]:
    """The loads, the busiest model first: an endpoint picker that asks for no model reads the first one."""
    running, queued_here, queued_behind = _requests(gateway, counters)
    loads = {engine.model: _of_engine(engine) for engine in engines if engine.state in _LOADED}
    for server in servers:
        name = server.model or next(iter(counters.labels.known), "default")
        if name not in loads:
            waiting = server.waiting + queued_behind[name]
            llamacpp = gateway.service.backend_of(name).name == "llamacpp"
            loads[name] = ModelLoad(name, server.running, waiting, None, server.kv_cache_usage, llamacpp, server)
    for name in {*running, *queued_here, *queued_behind, *counters.labels.known}:
        load = loads.get(name)
        if load is not None:
            load.waiting += queued_here[name]
        elif not gateway.service.backend_of(name).runs_engines:
            loads[name] = ModelLoad(name, running[name], queued_here[name] + queued_behind[name])
    return sorted(loads.values(), key=lambda load: (-load.waiting, -load.running, load.model))


def _of_engine(engine: EngineStatus) -> ModelLoad:
    # Its KV cache is divided among its slots: what the busy ones hold is what it is full of.
    usage = engine.slots_busy / engine.slots if engine.slots else 0.0
    return ModelLoad(engine.model, engine.slots_busy, engine.queued, engine.slots, usage, llamacpp=True)


def _requests(gateway: Gateway, counters: Counters) -> tuple[Counter[str], Counter[str], Counter[str]]:
    """The requests of each model that its backend works on, that wait in the gateway, and that wait behind it."""
    running: Counter[str] = Counter()
    queued_here: Counter[str] = Counter()
    queued_behind: Counter[str] = Counter()
    for request in gateway.requests:
        if not isinstance(request, RequestContext) or request.call is None or request.finished:
            continue
        number = max(1, len(request.call.arguments))
        name = counters.labels.requested(model_of(request))
        if request not in gateway.running:
            queued_here[name] += number
            continue
        behind = min(number, request.queue_client.waiting if request.queue_client is not None else 0)
        queued_behind[name] += behind
        running[name] += number - behind
    return running, queued_here, queued_behind
