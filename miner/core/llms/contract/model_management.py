"""The verbs about models themselves: what one is, which are loaded, and making, copying and deleting them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import msgspec

from miner.core.engine.logtail import EngineLog
from miner.core.llms.contract.backend import Backend
from miner.core.model_card import ModelCard, ModelRecipe, ModelState, RunningModel, state_of
from miner.core.subjects import subject
from miner.core.wire import ModelInfo
from miner.errors import ModelNotFoundError, UnsupportedFeatureError


class ModelManagement(Backend):
    """Verbs of LLMService. A backend that keeps models overrides them; by default nothing can be changed."""

    async def list_models(self) -> list[ModelInfo]:
        """Return the models that requests may name, the default first."""
        default = self._settings.default_model
        return [ModelInfo(id=default)] if default else []

    async def show_model(self, model: str, *, verbose: bool = False) -> ModelCard:
        """Return all that is known of a model.

        Args:
            verbose: with the long arrays of its file, such as the vocabulary.

        Raises:
            ModelNotFoundError: there is no such model.
        """
        info = await self.resolve_model(model)
        listed = await self.list_models()
        if info is None:
            info = next((known for known in listed if model in (known.id, *known.aliases)), None)
        if info is None:
            raise ModelNotFoundError(f"There is no model {model!r}.", model=model)
        for known in listed:
            if known.id == info.id:  # some backends know more in their list
                details = {name: value for name, value in msgspec.structs.asdict(info).items() if value is not None}
                info = msgspec.structs.replace(known, **details)
        return ModelCard(info=info)

    async def running_models(self) -> list[RunningModel]:
        """Return the models that are in memory."""
        return [RunningModel(info=info) for info in await self.list_models() if info.loaded]

    async def unload_model(self, model: str) -> bool:
        """Unload a model once its requests are done; return whether it was loaded. One that is still being loaded is
        stopped at once: calls that wait for that end with EngineStoppedError. Only later calls load it again.

        Raises:
            UnsupportedFeatureError: the backend's models stay loaded.
        """
        raise UnsupportedFeatureError(f"{subject(self.name)} does not unload models: they stay loaded.", param="model")

    async def stop_model(self, model: str) -> bool:
        """Unload a model now: its requests in flight end with an error, and those that wait for it with
        EngineStoppedError. Only later calls load it again. Return whether it was loaded, or requests waited for it.

        Raises:
            UnsupportedFeatureError: the backend's models stay loaded.
        """
        raise UnsupportedFeatureError(f"{subject(self.name)} does not stop models: they stay loaded.", param="model")

    def pin_model(self, model: str) -> None:
        """Never evict a model's engine for another one, nor unload it when it is idle, until the service is closed. It
        need not be loaded yet.

        Raises:
            UnsupportedFeatureError: the backend's models stay loaded.
        """
        raise UnsupportedFeatureError(f"{subject(self.name)} does not unload models: they stay loaded.", param="model")

    def unpin_model(self, model: str) -> None:
        """Undo `pin_model`."""
        raise UnsupportedFeatureError(f"{subject(self.name)} does not unload models: they stay loaded.", param="model")

    def reset_model(self, model: str) -> None:
        """Clear the failures of a model's engine: the next request starts it again.

        Raises:
            UnsupportedFeatureError: the backend starts no engines.
        """
        raise UnsupportedFeatureError(f"{subject(self.name)} has no engines of its own to reset.", param="model")

    async def engine_log(self, model: str) -> EngineLog:
        """Return the last lines that a model's engine has written, oldest first, also of one that has exited; none
        where it was not started yet.

        Raises:
            UnsupportedFeatureError: the backend starts no engines.
        """
        raise UnsupportedFeatureError(
            f"{subject(self.name)} has no engines of its own, whose log could be shown.", param="model"
        )  # fmt: skip

    def pull_model(self, model: str, *, insecure: bool = False) -> AsyncGenerator[dict[str, Any], None]:
        """Download a model, yielding progress events in Ollama's form (`status`, `digest`, `total` and `completed` in
        bytes) until the status is "success". Leaving early stops it; the next pull resumes.

        Args:
            insecure: Ollama: allow a registry without TLS; elsewhere without effect.

        Raises:
            UnsupportedFeatureError: the backend downloads no models.
        """
        raise UnsupportedFeatureError(f"{subject(self.name)} does not pull models.", param="pull")

    async def model_states(self) -> list[ModelState]:
        """Return all models with what they are doing, the default first, for operators. Loads nothing."""
        models, health = await self.list_models(), await self._health()
        engines, default = {engine.model: engine for engine in health.engines}, self._settings.default_model
        states = []
        for number, info in enumerate(models):
            state = state_of(info, engines.get(info.id), backend=self.name, kind=self.name)
            state.default = number == 0 if default is None and len(models) == 1 else default == info.id
            if info.id not in engines and not self.runs_engines:
                state.state = "remote"
            states.append(state)
        return states

    def create_model(self, name: str, recipe: ModelRecipe) -> AsyncGenerator[dict[str, Any], None]:
        """Make a model from another one, yielding progress events in Ollama's form until the status is "success".

        Raises:
            UnsupportedFeatureError: the backend makes no models, or not by such a recipe.
            InvalidRequestError: the name or the recipe cannot be used.
            ModelNotFoundError: there is no such model to make it from.
        """
        raise UnsupportedFeatureError(f"{subject(self.name)} does not create models.", param="create")

    async def copy_model(self, source: str, destination: str) -> None:
        """Give a model another name, under which it stays when the first one is deleted.

        Raises:
            UnsupportedFeatureError: the backend copies no models.
            ModelNotFoundError: there is no such model.
        """
        raise UnsupportedFeatureError(f"{subject(self.name)} does not copy models.", param="copy")

    async def delete_model(self, model: str) -> None:
        """Delete a model from the disk.

        Raises:
            UnsupportedFeatureError: the backend deletes no models, or not this one.
            ModelNotFoundError: there is no such model.
        """
        raise UnsupportedFeatureError(f"{subject(self.name)} does not delete models.", param="delete")

    async def has_blob(self, digest: str) -> bool:
        """Return whether a file of this digest (`sha256:` and 64 hex digits) was added, from which a model can be made.

        Raises:
            InvalidRequestError: it is no digest.
        """
        raise UnsupportedFeatureError(f"{subject(self.name)} takes no files.", param="blobs")

    async def add_blob(self, digest: str, content: AsyncIterator[bytes]) -> bool:
        """Add a file; return False if it was there already.

        Raises:
            InvalidRequestError: it is no digest, or not that of the content.
        """
        raise UnsupportedFeatureError(f"{subject(self.name)} takes no files.", param="blobs")
