"""The models that llama.cpp can run here, looked up in a thread: once a request, by the files as they are then."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import hashlib
import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from msgspec.structs import replace

from miner.core.engine.launchers import Launcher, find_launcher
from miner.core.engine.spec import EngineSpec
from miner.core.llms.contract.preset import preset_of
from miner.core.llms.llamacpp.dialect import Props
from miner.core.llms.llamacpp.extra_files import with_projector
from miner.core.llms.llamacpp.memory import (
    EngineMemory,
    log_capacity,
    memory_budget,
    memory_left,
    required_memory,
)
from miner.core.llms.llamacpp.models import (
    LocalModel,
    alias_of,
    capacity_of,
    find_model,
    longest_context,
    models_directory,
    pooling_of,
    spec_of,
    template_text,
)
from miner.core.llms.llamacpp.prompt_cache import with_prompt_cache
from miner.core.models.catalog import LARGE, Catalog, Facts
from miner.core.models.directory import Stamp, cache_directory
from miner.core.models.gguf.header import GGUFHeader
from miner.core.models.gguf.values import GGUFError
from miner.core.models.memory.available import Memory
from miner.core.models.memory.capacity import SHARE, Capacity, portion_of
from miner.core.models.memory.kv_cache import ENCODERS
from miner.core.models.resolve import LocatedModel
from miner.core.wire import ModelInfo
from miner.errors import EngineStartError, MinerError, ModelNotFoundError

if TYPE_CHECKING:
    from miner.config.config import MinerConfig

logger = logging.getLogger("miner.llamacpp")

_ALL = 0.95
"""Of the memory for all engines: what several that should fit together divide among them."""
Found = tuple[LocalModel, "EngineSpec"]
Key = tuple[asyncio.AbstractEventLoop, str | None, bool]


class LocalModels:
    """The local models, and the settings of their engines.

    Args:
        reserved: the memory that the loaded engines take.
        budget: the memory that all engines together may take; None: as the settings say, measured once. Blocks.
        sharers: engines of other services, and this one's, that should fit into it together; 1: only this service's.
    """

    def __init__(
        self, settings: MinerConfig, reserved: Callable[[], EngineMemory] = lambda: EngineMemory(0),
        budget: Callable[[], Memory] | None = None, sharers: Callable[[], int] = lambda: 1,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._sharers = sharers
        self._reserved = reserved
        self._shared_budget = budget
        self._launcher: Launcher | None = None
        self._capacities: dict[tuple[Stamp, ...], Capacity] = {}
        self._specs: dict[EngineSpec, EngineSpec] = {}
        """With the prompt cache, which is chosen once as well."""
        self._catalog: Catalog | None = None
        self._warned = False
        self._needs: dict[EngineSpec, EngineMemory | EngineStartError] = {}
        self._budget: Memory | None = None
        self._measuring = threading.Lock()
        self._running: dict[Key, asyncio.Task[Found]] = {}
        self._next: dict[Key, asyncio.Task[Found]] = {}

    @property
    def launcher(self) -> Launcher:
        """The launcher of engines here.

        Raises:
            EngineStartError: no launcher is installed.
        """
        if self._launcher is None:
            self._launcher = find_launcher(self._settings.llamacpp_server)
        return self._launcher

    @property
    def catalog(self) -> Catalog:
        """The catalog of the settings' models directory."""
        directory = models_directory(self._settings)
        if self._catalog is None or self._catalog.directory != directory:
            self._catalog = Catalog(directory, kept=cache_directory() / "headers")
        return self._catalog

    async def find(self, name: str | None, *, any_name: bool = False) -> Found:
        """The model behind a name, None being the default, and how it is run, by the files as they are now.

        Requests for a name that is being looked up share the next lookup: each sees the files as they were after it
        arrived, and they continue in order.

        Args:
            any_name: with MODEL_PATH, whether an unknown name means that model; the first such name is logged.

        Raises:
            ModelNotFoundError: there is none, or several.
            EngineStartError: the file is there and is no usable model.
            ConfigError: the settings' chat template cannot be read.
        """
        key = (asyncio.get_running_loop(), name, any_name)
        lookup = self._next.get(key)
        if lookup is None:
            lookup = self._next[key] = asyncio.create_task(self._look_up(key))
            lookup.add_done_callback(_retrieve_error)
        try:
            return await asyncio.shield(lookup)
        except MinerError as error:
            own = copy.copy(error)  # a shared one would collect all tracebacks
            raise own from error.__cause__

    async def _look_up(self, key: Key) -> Found:
        task, before = self._next[key], self._running.get(key)
        try:
            if before is not None:
                await asyncio.wait({before})
        finally:
            del self._next[key]
        self._running[key] = task
        try:
            return await asyncio.to_thread(self._locate, key[1], any_name=key[2])
        finally:
            if self._running.get(key) is task:
                del self._running[key]

    def _locate(self, name: str | None, *, any_name: bool) -> Found:
        settings = self._settings
        try:
            model = find_model(name, settings, self.catalog)
        except ModelNotFoundError:
            if not (any_name and name and settings.model_path):
                raise
            model = find_model(None, settings, self.catalog)
            if not self._warned:
                self._warned = True
                logger.warning(
                    "There is no model %r: unknown names mean %r, the model of MODEL_PATH. "
                    "Use its name, or refuse unknown ones with MINER_ANY_MODEL_NAME=false.", name, model.alias,
                )  # fmt: skip
        launcher = self.launcher
        capacity = self._capacity(model, launcher)
        bare = spec_of(model, settings, ctx_size=capacity.ctx_size, parallel=capacity.parallel)
        spec = self._specs.get(bare)
        if spec is None:
            gpus = launcher.may_offload(settings.llamacpp_n_gpu_layers)
            left = memory_left(settings, self.budget(), self._reserved(), gpus=gpus)
            if (sharers := self._sharers()) > 1:
                left = portion_of(self.budget(), _ALL / sharers)
            spec = self._specs[bare] = with_prompt_cache(bare, model.header, settings, left, launcher)
        if not isinstance(self._needs.get(spec), EngineMemory):  # what did not fit may do now
            need = self._needs[spec] = self._memory_of(spec, model.header, launcher)
            if isinstance(need, EngineMemory):
                log_capacity(model, capacity, need, self.budget(), in_table=settings.llamacpp_alias is not None)
        return model, spec

    def _capacity(self, model: LocalModel, launcher: Launcher | None) -> Capacity:
        """Slots and context of the model's engine. Chosen once for each model: the same settings must give the same
        engine, however much memory is free later. Blocks: not for an event loop.
        """
        known = self._capacities.get(model.files.stamps)
        if known is not None:
            return known
        settings, budget, most = self._settings, self.budget(), launcher.slots if launcher is not None else None
        gpus = launcher is None or launcher.may_offload(settings.llamacpp_n_gpu_layers)
        reserved = self._reserved()
        alone = budget if gpus else dataclasses.replace(budget, gpu_available=(), gpu_total=(), gpu_kind=())
        sharers = self._sharers()
        if sharers > 1:
            # All of them should fit together, so each gets its part, whichever of them are loaded now.
            capacity = capacity_of(model, settings, alone, most=most, share=min(SHARE, _ALL / sharers))
        else:
            left = memory_left(settings, budget, reserved, gpus=gpus)
            capacity = capacity_of(model, settings, left, most=most)
            if capacity.short and reserved != EngineMemory(0):
                # Beside the others it would be of little use; alone it may have all that they take.
                capacity = capacity_of(model, settings, alone, most=most)
        return self._capacities.setdefault(model.files.stamps, capacity)

    def _memory_of(self, spec: EngineSpec, header: GGUFHeader, launcher: Launcher) -> EngineMemory | EngineStartError:
        try:
            return required_memory(spec, header, self.budget(), launcher)
        except EngineStartError as error:
            return error  # raised when it is to be loaded

    def budget(self) -> Memory:
        """The memory that all engines together may take, measured once. Blocks: not for an event loop."""
        if self._shared_budget is not None:
            return self._shared_budget()
        with self._measuring:
            if self._budget is None:
                self._budget = memory_budget(self._settings)
            return self._budget

    def need(self, spec: EngineSpec) -> EngineMemory:
        """The memory that an engine of a spec from `find` takes.

        Raises:
            EngineStartError: more than there is.
        """
        need = self._needs.get(spec, EngineMemory(0))  # missing: its file was replaced just now
        if isinstance(need, EngineStartError):
            raise copy.copy(need)
        return need

    def known_need(self, spec: EngineSpec) -> EngineMemory:
        """The memory of an engine that is loaded."""
        need = self._needs.get(spec)
        return need if isinstance(need, EngineMemory) else EngineMemory(0)

    def forget(self, spec: EngineSpec) -> None:
        """Forget a spec that will not be loaded again."""
        self._needs.pop(spec, None)
        self._specs.pop(dataclasses.replace(spec, cache_ram_mib=0), None)

    async def infos(self, loaded: set[str]) -> list[ModelInfo]:
        """All models, the default first and the demo model last, without unusable files and without a default that is
        missing (`miner models list` shows both).

        Args:
            loaded: aliases of those whose engines are ready.

        Raises:
            ModelNotFoundError: MODEL_PATH names nothing.
            ConfigError: the settings' chat template cannot be read.
        """
        return await asyncio.to_thread(self._listed, loaded)

    def _listed(self, loaded: set[str]) -> list[ModelInfo]:
        settings, catalog = self._settings, self.catalog
        template = template_text(settings)
        infos = []
        listed = [
            (with_projector(files, settings), facts)
            for files, facts in catalog.listed_facts(model_path=settings.model_path)
        ]
        alias = alias_of(settings)
        if alias is not None:
            listed = [(dataclasses.replace(files, alias=alias), facts) for files, facts in listed]
        for files, facts in listed:
            infos.append(self._info(files, facts, template, files.alias in loaded, read=len(listed) < LARGE))
        for recipe in catalog.created.all().values():
            with suppress(MinerError):  # the model that it is made of was removed
                model = find_model(recipe.name, settings, catalog)
                infos.append(self.info(model, template, model.engine_alias in loaded))
        with suppress(MinerError):
            default = find_model(None, settings, catalog)
            own = next((info for info in infos if info.id == default.alias), None)
            if own is None:  # DEFAULT_MODEL may be a path
                own = self.info(default, template, default.engine_alias in loaded)
            infos = [own, *(info for info in infos if info is not own)]
        return infos

    def info(self, model: LocalModel, template: str | None, loaded: bool) -> ModelInfo:
        """A model as its files and its recipe describe it."""
        recipe = model.recipe
        if recipe is None:
            return self._info(model.files, model.facts, template, loaded)
        info = self._info(model.files, model.facts, recipe.template or template, loaded)
        return replace(
            info, id=recipe.name, aliases=[], created=int(recipe.created), preset=preset_of(recipe),
            digest=hashlib.sha256(f"{info.digest} {recipe.digest}".encode()).hexdigest(),
        )  # fmt: skip

    def _context(self, files: LocatedModel, facts: Facts, *, read: bool) -> int | None:
        """Tokens of a slot; None where that is not decided yet.

        Args:
            read: whether its header may be read to decide it, which takes 20 ms.
        """
        known = self._capacities.get(files.stamps)
        if known is not None:
            return known.ctx_size
        if self._settings.llamacpp_ctx_size is not None:
            return longest_context(facts, self._settings)
        if not read:
            return None
        launcher = None
        with suppress(EngineStartError):  # none is installed: the first request raises
            launcher = self.launcher
        with suppress(GGUFError, MinerError):
            return self._capacity(LocalModel(files, self.catalog.header(files), facts), launcher).ctx_size
        return None

    def _info(
        self, files: LocatedModel, facts: Facts, template: str | None, loaded: bool, *, read: bool = True
    ) -> ModelInfo:
        """A model as its files describe it, without its path: clients see this.

        Args:
            read: whether its header may be read for what is not decided yet.
        """
        props = Props.guess(template=template or facts.chat_template, vision=files.mmproj is not None)
        pooling = pooling_of(facts, self._settings)
        able = props.capabilities(
            embeds=pooling not in (None, "rank"),
            ranks=pooling == "rank",
            fills=facts.fim_tokens is not None,
            generates=facts.architecture not in ENCODERS,
        )
        with suppress(EngineStartError):  # none is installed: the first request raises
            able -= self.launcher.lacks
        aliases = self.catalog.aliases(files)
        if self._settings.model_path and facts.name:
            aliases = (*aliases, facts.name)
        # A file that was replaced by one of the same name and size has another digest, too.
        stamps = [(os.path.basename(path), *rest) for path, *rest in files.stamps]
        return ModelInfo(
            id=files.alias,
            aliases=sorted(aliases),
            context_length=self._context(files, facts, read=read),
            trained_context_length=facts.context_length,
            capabilities=able,
            loaded=loaded,
            size=files.size,
            parameters=facts.parameters,
            quantization=facts.quantization,
            architecture=facts.architecture,
            dimensions=facts.embedding_length,
            created=files.modified,
            digest=hashlib.sha256(repr(stamps).encode()).hexdigest(),
        )


def _retrieve_error(task: asyncio.Task[Found]) -> None:
    """Mark the error as retrieved, for the case that every waiter was cancelled."""
    if not task.cancelled():
        task.exception()
