"""Making, copying and deleting models of the models directory, which creates no weights: `models/created.py`."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import msgspec

from miner.core.llms.contract.preset import preset_of
from miner.core.llms.llamacpp.go_template import jinja_of
from miner.core.llms.llamacpp.models import LocalModel, find_model, models_directory
from miner.core.llms.llamacpp.pull import pull_from_hub
from miner.core.model_card import ModelRecipe
from miner.core.models.catalog import Catalog
from miner.core.models.created import CreatedModels, Recipe, checked_name
from miner.core.models.gguf.header import read_header
from miner.core.models.gguf.values import GGUFError
from miner.core.models.names import parse_ref
from miner.core.models.removal import remove_files
from miner.core.models.resolve import resolve
from miner.errors import InvalidRequestError, ModelNotFoundError, UnsupportedFeatureError

if TYPE_CHECKING:
    from miner.config.config import MinerConfig

_UNSUPPORTED = ("adapters", "quantize", "quantization", "draft_files", "draft_quantize", "remote_host")
"""Fields of a recipe that need weights of their own."""
_GO = re.compile(r"\{\{-?\s*(?:[.$]|range\b|if\b|else\b|end\b|with\b|define\b|template\b|block\b)")


class ModelMaker:
    """Creates, copies and deletes models, in threads.

    Args:
        find: finds a model as a request does.
        forget: stops the engine of a model that was deleted.
    """

    def __init__(
        self, settings: MinerConfig, catalog: Catalog, find: Callable[[str], Awaitable[object]],
        forget: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._settings = settings
        self._files = _Recipes(settings, catalog)
        self._find = find
        self._forget = forget

    async def create(self, name: str, recipe: ModelRecipe) -> AsyncGenerator[dict[str, Any], None]:
        """Create a model; one that it is made from is pulled where it is a reference to a hub."""
        base = recipe.base
        if base is not None and parse_ref(base) is not None:
            try:
                await self._find(base)
            except ModelNotFoundError:
                async with aclosing(pull_from_hub(base, self._settings)) as pulled:
                    async for event in pulled:
                        if event.get("status") != "success":
                            yield event
        for status in await asyncio.to_thread(self._files.create, name, recipe):
            yield {"status": status}

    async def copy(self, source: str, destination: str) -> None:
        """Give a model another name."""
        await asyncio.to_thread(self._files.copy, source, destination)

    async def delete(self, model: str) -> None:
        """Delete a model."""
        self._forget(await asyncio.to_thread(self._files.delete, model))

    async def has_blob(self, digest: str) -> bool:
        """Whether a file was uploaded."""
        return await asyncio.to_thread(self._files.created.blob(digest).is_file)

    async def add_blob(self, digest: str, content: AsyncIterator[bytes]) -> bool:
        """Upload a file; False if it was there."""
        return await _add_blob(self._files.created, digest, content)


class _Recipes:
    """The recipes under the settings. Its methods block: not for an event loop."""

    def __init__(self, settings: MinerConfig, catalog: Catalog) -> None:
        self._settings = settings
        self._catalog = catalog
        self.created = catalog.created

    def create(self, name: str, wanted: ModelRecipe) -> list[str]:
        """Create a model; return what was done, in Ollama's words.

        Raises:
            InvalidRequestError: the name or a part of the recipe is invalid.
            UnsupportedFeatureError: it needs weights of its own.
            ModelNotFoundError: there is no such model to make it from.
        """
        for field in _UNSUPPORTED:
            if wanted.other.get(field):
                raise UnsupportedFeatureError(
                    f"{field} is not supported: a model that is created here has the weights of another one.",
                    param=field, hint="Make the GGUF file elsewhere and create the model from it.",
                )  # fmt: skip
        recipe = self._base_of(self._own_name(name), wanted)
        layers = [f"using existing layer {self._digest_of(recipe)}"]
        for field in ("template", "system", "parameters", "messages"):
            value = getattr(wanted, field)
            if not value:
                continue
            if field == "template":
                value = _jinja(value)
            elif field == "parameters":
                value = {**recipe.parameters, **value}
            setattr(recipe, field, value)
            digest = hashlib.sha256(msgspec.json.encode(value)).hexdigest()
            layers.append(f"creating new layer sha256:{digest}")
        recipe.licenses = [*recipe.licenses, *wanted.licenses]
        _check(recipe)
        self.created.save(recipe)
        return [*layers, "writing manifest", "success"]

    def copy(self, source: str, destination: str) -> None:
        """Give a model another name.

        Raises:
            ModelNotFoundError: there is no such model.
            InvalidRequestError: a name is invalid.
        """
        model = self._find(source)
        try:
            name = self._own_name(destination)
        except InvalidRequestError as error:
            if error.message == "invalid model name":
                error.message = f'destination "{destination}" is invalid'
            raise
        recipe = self._made_of(model)
        recipe.name = name
        self.created.save(recipe)

    def delete(self, name: str) -> str:
        """Delete a model that was created, copied or pulled here; return its name.

        Raises:
            ModelNotFoundError: there is no such model.
            InvalidRequestError: its file is its owner's, or other models are made of it.
        """
        recipe = self.created.find(name)
        if recipe is not None:
            self.created.remove(recipe.name)
            return recipe.name
        model = self._find(name).files
        if model.source != "directory":
            what = "belongs to a Python package" if model.source == "demo" else "is outside of the models directory"
            raise InvalidRequestError(f"{name!r} cannot be deleted: it {what}.", param="model")
        users = self.created.users_of(model.alias)
        if users:
            raise InvalidRequestError(
                f"{name!r} cannot be deleted: {', '.join(users)} {'is' if len(users) == 1 else 'are'} made of it.",
                param="model", hint="Delete those first.",
            )  # fmt: skip
        if not self._settings.delete_model_files and not self.created.was_pulled(model.alias, model.stamps):
            raise InvalidRequestError(
                f"{name!r} was not created, copied or pulled here: its file is its owner's.", param="model",
                hint="The operator deletes it.",
                operator_hint="Use `miner models rm`, or allow it with MINER_DELETE_MODEL_FILES=true.",
            )  # fmt: skip
        remove_files(model, models_directory(self._settings))
        self.created.forget_pulled(model.alias)
        return model.alias

    # Names

    def _find(self, name: str) -> LocalModel:
        """The model of a client's name, which is no path."""
        if self.created.find(name) is None and not self._is_file_name(name):
            names = [recipe.name for recipe in self.created.all().values()]
            raise ModelNotFoundError(f"There is no model {name!r}.", model=name, available=names)
        return find_model(name, self._settings, self._catalog)

    def _is_file_name(self, name: str) -> bool:
        """Whether a model that has files of its own has this name."""
        models = self._catalog.models(newer_than=time.monotonic())
        try:
            resolve(name, model_path=self._settings.model_path, models=models, allow_paths=False)
        except ModelNotFoundError as error:
            return bool(models.matching(name)) and not error.message.startswith("There is no model")
        return True

    def _own_name(self, name: str) -> str:
        """A name that a created model may have, spelled as one that exists.

        Raises:
            InvalidRequestError: it is invalid, or that of a file.
        """
        short = checked_name(name)
        known = self.created.find(short)
        if known is not None:
            return known.name
        if self._is_file_name(short):
            raise InvalidRequestError(
                f"{name!r} is the name of a model's file here.", param="model", hint="Choose another name."
            )
        return short

    # Recipes

    def _base_of(self, name: str, wanted: ModelRecipe) -> Recipe:
        if wanted.base:
            recipe = self._made_of(self._find(wanted.base))
        elif wanted.files:
            recipe = Recipe(name=name, blob=self._uploaded(wanted.files), created=time.time())
        else:
            raise InvalidRequestError("neither 'from' or 'files' was specified", param="from")
        recipe.name = name
        return recipe

    def _made_of(self, model: LocalModel) -> Recipe:
        known, now = model.recipe, time.time()
        if known is not None:
            return msgspec.structs.replace(known, parent=known.name, created=now)
        return Recipe(name="", base=model.files.alias, parent=model.files.alias, created=now)

    def _uploaded(self, files: dict[str, str]) -> str:
        """The digest of the one file of a model.

        Raises:
            InvalidRequestError: it was not uploaded, or is no GGUF.
        """
        if len(files) != 1:
            raise InvalidRequestError("A model is created from one GGUF file.", param="files")
        [(name, digest)] = files.items()
        place = self.created.blob(digest)
        if not place.is_file():
            raise InvalidRequestError(f'blob "{digest}" not found', param=f"files.{name}")
        try:
            header = read_header(place)
        except GGUFError as error:
            raise InvalidRequestError(
                f"supplied file was not in GGUF format: {error.reason}", param=f"files.{name}"
            ) from error
        if not header.tensors:
            raise InvalidRequestError("supplied file is a vocabulary, not a model", param=f"files.{name}")
        return digest.replace("-", ":", 1)

    def _digest_of(self, recipe: Recipe) -> str:
        if recipe.blob is not None:
            return recipe.blob
        files = find_model(recipe.base, self._settings, self._catalog).files
        return f"sha256:{hashlib.sha256(repr([stamp[1:] for stamp in files.stamps]).encode()).hexdigest()}"


def _check(recipe: Recipe) -> None:
    """Check the parameters and messages of a recipe.

    Raises:
        InvalidRequestError: one is invalid; names it.
    """
    try:
        preset_of(recipe)
    except InvalidRequestError as error:
        if error.param is not None and not error.param.startswith("messages"):
            name = "num_predict" if error.param == "max_tokens" else error.param
            error.message = error.message.replace(error.param, f"parameters.{name}", 1)
            error.param = f"parameters.{name}"
        raise


def _jinja(template: str) -> str:
    """The template in Jinja's syntax, which llama.cpp runs.

    Raises:
        UnsupportedFeatureError: it is one in Go's syntax that has no equivalent.
    """
    return jinja_of(template) if _GO.search(template) else template


_PART = 1 << 20
"""Bytes that are written at once."""


async def _add_blob(created: CreatedModels, digest: str, content: AsyncIterator[bytes]) -> bool:
    """Write a file; return False if it was there already.

    Raises:
        InvalidRequestError: it is no digest, or not that of the content.
        MinerError: the file cannot be written.
    """
    if await asyncio.to_thread(created.blob(digest).is_file):
        return False
    await asyncio.to_thread(created.prune)
    upload = await asyncio.to_thread(created.upload, digest)
    parts: list[bytes] = []
    try:
        async for part in content:
            parts.append(part)
            if sum(map(len, parts)) >= _PART:
                await asyncio.to_thread(upload.write, b"".join(parts))
                parts.clear()
        await asyncio.to_thread(upload.write, b"".join(parts))
        await asyncio.to_thread(upload.finish)
    finally:
        await asyncio.to_thread(upload.close)
    return True
