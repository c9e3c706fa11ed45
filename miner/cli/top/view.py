"""What is known of a running gateway: from its events, and from what it says when asked."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from miner.cli.memory_taken import gpu_memory, main_memory, without_estimates

if TYPE_CHECKING:
    from miner.cli.gateway_client import ServerEvent

_RECENT = 200
"""Requests that are remembered."""
_HISTORY = 60
"""Seconds of token rates."""
_RATE_SECONDS = 10
"""Over how many seconds requests are counted."""
_RATES = 200
"""Names of models that rates are kept of: clients may send any."""


@dataclass(slots=True)
class RequestRow:
    """One request."""

    id: str
    at: float
    """When it began, or was first seen, in seconds since 1970."""
    key: str = "-"
    model: str = "-"
    route: str = ""
    state: str = "running"
    status: int | None = None
    first_token: float | None = None
    """Seconds to the first token."""
    seconds: float | None = None
    tokens: int | None = None
    error: str | None = None


@dataclass(slots=True)
class View:
    """A gateway as it is now."""

    url: str
    node: dict[str, Any] = field(default_factory=dict)
    """`/admin/node`."""
    models: list[dict[str, Any]] = field(default_factory=list)
    """`/admin/models`."""
    known: bool = False
    """Whether the gateway has told its models."""
    lost: str | None = None
    """Why there is no connection; None: there is one."""
    restarts: int = 0
    """How often it came back."""
    rates: dict[str, float] = field(default_factory=dict)
    """Tokens per second of each model, by the name that clients use."""
    history: dict[str, deque[float]] = field(default_factory=lambda: defaultdict(lambda: deque(maxlen=_HISTORY)))
    """The same for the last minute, by the model's own name."""
    waiting: int = 0
    running: dict[str, RequestRow] = field(default_factory=dict)
    recent: deque[RequestRow] = field(default_factory=lambda: deque(maxlen=_RECENT))
    """Requests that have ended, the last one first."""
    _ends: deque[float] = field(default_factory=deque)

    def event(self, event: ServerEvent) -> None:
        """Take over what has happened."""
        data = event.data
        match event.kind:
            case "state":
                self.models, self.running, self.rates = list(data.get("models", ())), {}, {}
                self.known = True
            case "request":
                self._request(data)
            case "load":
                self.waiting = data.get("waiting", 0)
                self.rates = dict(list(data.get("tokens_per_second", {}).items())[:_RATES])
                for engine in data.get("engines", ()):
                    self._engine(engine["model"], engine)
            case "engine":
                self._engine(data["model"], {"state": _MODEL_STATES.get(data["state"]), "memory": data.get("memory")})

    def _request(self, data: Mapping[str, Any]) -> None:
        row = self.running.pop(data["id"], None) or RequestRow(data["id"], data["at"] - data.get("seconds", 0.0))
        row.model = data.get("model") or (row.model if row.model != "-" else self._default())
        row.key = data.get("client") or row.key
        row.route = data.get("route") or row.route
        if data["state"] == "started":
            self.running[row.id] = row
            return
        row.state, row.status, row.error = data["state"], data.get("status"), data.get("error")
        row.first_token, row.seconds = data.get("first_token_seconds"), data.get("seconds")
        row.tokens = data.get("completion_tokens")
        self.recent.appendleft(row)
        self._ends.append(time.monotonic())

    def _default(self) -> str:
        return next((model["name"] for model in self.models if model.get("default")), "-")

    def _engine(self, name: str, change: Mapping[str, Any]) -> None:
        for model in self.models:
            if name in (model.get("engine"), model["name"]):
                known = {
                    key: _MODEL_STATES.get(value, value) if key == "state" else value
                    for key, value in change.items()
                    if key in ("state", "memory", "slots", "slots_busy", "queued") and value is not None
                }
                model.update(known)

    def tick(self) -> None:
        """A second has passed."""
        for model in self.models:
            self.history[model["name"]].append(self.rate_of(model))
        known = {model["name"] for model in self.models}
        for name in [name for name in self.history if name not in known]:
            del self.history[name]

    def rate_of(self, model: Mapping[str, Any]) -> float:
        """Tokens per second of a model, under whatever name clients call it."""
        names = {model["name"], *model.get("aliases", ())} | ({"default"} if model.get("default") else set())
        return sum(rate for name, rate in self.rates.items() if name in names)

    @property
    def tokens_per_second(self) -> float:
        """Of all models."""
        return sum(self.rates.values()) if self.lost is None else 0.0

    @property
    def requests_per_second(self) -> float:
        """Requests that ended, over the last ten seconds."""
        now = time.monotonic()
        while self._ends and self._ends[0] < now - _RATE_SECONDS:
            self._ends.popleft()
        return len(self._ends) / _RATE_SECONDS

    @property
    def memory(self) -> int:
        """Bytes of main memory that the loaded models take. Models that share an engine take its memory once."""
        return self._sum_of_engines(main_memory)

    @property
    def gpu_memory(self) -> int:
        """The same of GPU memory, of all GPUs together; 0: none, or unknown."""
        return self._sum_of_engines(gpu_memory)

    def _sum_of_engines(self, taken: Callable[[Mapping[str, Any]], int]) -> int:
        engines: dict[str, int] = {}
        for model in self.models:
            engine = model.get("engine") or model["name"]
            engines[engine] = max(engines.get(engine, 0), taken(model))
        return sum(engines.values())

    @property
    def uptime(self) -> float | None:
        """Seconds since the gateway started."""
        started = self.node.get("started_at")
        return None if started is None else max(0.0, time.time() - started)

    def as_json(self) -> dict[str, Any]:
        """All that is shown, as one object; `gpu_memory` only where there is a figure."""
        gpu_memory = self.gpu_memory
        return {
            "at": round(time.time(), 3), "url": self.url, "connected": self.known and self.lost is None,
            "error": self.lost, "version": self.node.get("version"),
            "uptime": None if self.uptime is None else round(self.uptime, 1),
            "requests_per_second": round(self.requests_per_second, 2),
            "tokens_per_second": round(self.tokens_per_second, 2), "memory": self.memory,
            "memory_total": self.node.get("memory_total"), **({"gpu_memory": gpu_memory} if gpu_memory else {}),
            "requests_running": len(self.running),
            "requests_waiting": self.waiting,
            "models": [
                without_estimates(model) | {"tokens_per_second": self.rate_of(model)} for model in self.models],
            "requests": [_request_json(row) for row in [*self.running.values(), *list(self.recent)[:20]]],
        }  # fmt: skip


def _request_json(row: RequestRow) -> dict[str, Any]:
    return {
        "id": row.id, "at": row.at, "key": row.key, "model": row.model, "route": row.route, "state": row.state,
        "status": row.status, "ttft": row.first_token, "seconds": row.seconds, "tokens": row.tokens,
        "error": row.error,
    }  # fmt: skip


_MODEL_STATES = {
    "loading": "loading", "starting": "loading", "ready": "ready", "evicting": "stopping", "stopping": "stopping",
    "stopped": "unloaded", "sleeping": "sleeping", "failed": "failed",
}  # fmt: skip
"""State of an engine or of its event -> state of its model."""
