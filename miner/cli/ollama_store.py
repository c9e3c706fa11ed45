"""The models of an Ollama server, which stores, pulls and deletes them itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from miner.cli.model_store import ModelStore, Pulled, Removed, Row
from miner.cli.parser import UsageError
from miner.config.config import MinerConfig
from miner.core._typing import override
from miner.core.http.errors import Upstream
from miner.core.llms.llm_ollama import OllamaService
from miner.core.model_card import ModelCard
from miner.core.models.hub.download import PullProgress, Speed

T = TypeVar("T")


class _Event(msgspec.Struct):
    """One line of `/api/pull`."""

    status: str = ""
    digest: str | None = None
    total: int = 0
    completed: int = 0


@dataclass
class OllamaStore(ModelStore):
    """An Ollama server at OLLAMA_BASE_URL."""

    settings: MinerConfig
    skipped = ()

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
            for model in self._run(lambda service: service.list_models())
        ]

    @override
    def details(self, name: str) -> dict[str, Any]:
        model = self._run(lambda service: service._get_model(name))
        return {
            "name": model.id,
            "architecture": model.architecture,
            "parameters": model.parameters,
            "quantization": model.quantization,
            "context length": model.context_length,
            "embedding length": model.dimensions,
            "server": Upstream("ollama", self.settings.ollama_base_url).shown_url,
        }

    @override
    def card(self, name: str) -> ModelCard:
        return self._run(lambda service: service.show_model(name))

    @override
    def pull(self, name: str, on_progress: Callable[[PullProgress], None]) -> Pulled:
        async def pull(service: OllamaService) -> None:
            convert = _ProgressConverter(name)
            async with aclosing(service.pull_model(name)) as events:
                async for event in events:
                    on_progress(convert(msgspec.convert(event, _Event)))

        self._run(pull)
        return Pulled(name)

    @override
    def copy(self, source: str, destination: str) -> None:
        self._run(lambda service: service.copy_model(source, destination))

    @override
    def remove(self, name: str) -> Removed:
        self._run(lambda service: service.delete_model(name))
        return Removed(name)

    @override
    def path(self, name: str) -> str:
        raise UsageError(
            "Ollama does not expose the files of its models.", operator_hint="Use --backend llamacpp for others."
        )

    def _run(self, call: Callable[[OllamaService], Coroutine[Any, Any, T]]) -> T:
        async def run() -> T:
            service = OllamaService(self.settings)
            async with service:
                return await call(service)

        return asyncio.run(run())


class _ProgressConverter:
    """Converts Ollama's pull events to PullProgress. The layers become known one after the other."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._layers: dict[str, tuple[int, int]] = {}
        self._speed = Speed()

    def __call__(self, event: _Event) -> PullProgress:
        if event.digest is not None:
            self._layers[event.digest] = (event.completed, event.total)
        total = sum(size for _, size in self._layers.values())
        if event.status == "success":
            # Small layers may never be reported complete.
            return PullProgress("done", self._name, 1, 1, total, total)
        done = sum(completed for completed, _ in self._layers.values())
        speed = self._speed.at(done)
        left = (total - done) / speed if speed else None
        verifying = event.status.startswith("verifying")
        return PullProgress("checking" if verifying else "downloading", self._name, 1, 1, done, total, speed, left)
