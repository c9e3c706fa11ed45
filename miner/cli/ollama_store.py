"""The models of an Ollama server, for `miner models`: Ollama keeps, gets and deletes them itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from miner.cli.model_store import Row, Store
from miner.cli.parser import UsageError
from miner.core._typing import override
from miner.core.http.client import HttpClient
from miner.core.http.errors import Upstream, parse_error_body
from miner.core.llms.llm_ollama import OllamaService
from miner.core.llms.LLMService import LLMService
from miner.core.llms.ollama.errors import ollama_error
from miner.core.models.hub.download import PullProgress, Speed

if TYPE_CHECKING:
    from miner.config.config import MinerConfig

__all__ = ["OllamaStore"]

T = TypeVar("T")


class _Event(msgspec.Struct):
    """One line of a pull."""

    status: str = ""
    digest: str | None = None
    total: int = 0
    completed: int = 0


@dataclass
class OllamaStore(Store):
    """An Ollama server at OLLAMA_BASE_URL."""

    left_out = ()
    settings: MinerConfig
    upstream: Upstream = field(init=False)

    def __post_init__(self) -> None:
        self.upstream = Upstream(
            backend="ollama",
            base_url=self.settings.ollama_base_url.rstrip("/"),
            timeout_setting="OLLAMA_TIMEOUT",
            read_timeout=self.settings.ollama_timeout,
            unreachable_hint="Start it with `ollama serve`, or set OLLAMA_BASE_URL.",
            address_setting="OLLAMA_BASE_URL",
        )

    @override
    def rows(self) -> list[Row]:
        return [
            Row(
                model.id,
                model.size or 0,
                quantization=model.quantization,
                parameters=model.parameters,
                context_length=model.context_length,
                source="ollama",
            )
            for model in _run(self._with_service(lambda service: service.list_models()))
        ]

    @override
    def details(self, name: str) -> dict[str, Any]:
        model = _run(self._with_service(lambda service: service._get_model(name)))
        return {
            "name": model.id,
            "architecture": model.architecture,
            "parameters": model.parameters,
            "quantization": model.quantization,
            "context length": model.context_length,
            "embedding length": model.dimensions,
            "capabilities": ", ".join(sorted(model.capabilities or ())) or None,
            "server": self.upstream.shown_url,
        }

    @override
    def pull(self, name: str, tell: Callable[[PullProgress], None]) -> str:
        _run(self._pull(name, tell))
        return name

    @override
    def remove(self, name: str) -> str:
        _run(self._remove(name))
        return name

    @override
    def path(self, name: str) -> str:
        raise UsageError("The files of Ollama's models are Ollama's own.", hint="Use --backend llamacpp for others.")

    async def _with_service(self, ask: Callable[[LLMService], Coroutine[Any, Any, T]]) -> T:
        async with OllamaService(self.settings) as service:
            return await ask(service)

    async def _remove(self, name: str) -> None:
        async with self._http() as http:
            reply = await http.request("DELETE", "/api/delete", msgspec.json.encode({"model": name}))
        if reply.status != 200:
            raise ollama_error(reply.status, parse_error_body(reply.body), self.upstream, name)

    async def _pull(self, name: str, tell: Callable[[PullProgress], None]) -> None:
        show = _Shown(name, tell)
        async with OllamaService(self.settings) as service, aclosing(service.pull_model(name)) as events:
            async for event in events:
                show(msgspec.convert(event, _Event))

    @asynccontextmanager
    async def _http(self) -> AsyncIterator[HttpClient]:
        http = HttpClient(self.upstream)
        try:
            yield http
        finally:
            await http.close()


class _Shown:
    """Ollama's events in the look of our own pulls. Layers become known one after the other."""

    def __init__(self, name: str, tell: Callable[[PullProgress], None]) -> None:
        self._name = name
        self._tell = tell
        self._layers: dict[str, tuple[int, int]] = {}
        self._speed = Speed()

    def __call__(self, event: _Event) -> None:
        if event.digest is not None:
            self._layers[event.digest] = (event.completed, event.total)
        total = sum(size for _, size in self._layers.values())
        if event.status == "success":
            # Small layers may never be told complete.
            self._tell(PullProgress("done", self._name, 1, 1, total, total))
            return
        done = sum(done for done, _ in self._layers.values())
        speed = self._speed.at(done)
        left = (total - done) / speed if speed else None
        verifying = event.status.startswith("verifying")
        self._tell(PullProgress("checking" if verifying else "downloading", self._name, 1, 1, done, total, speed, left))


def _run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)
