"""Models that were made here from others: their recipes, in a directory inside the models directory.

A created model has no weights of its own: it is another model with a system prompt, a chat template, parameters and
messages. Its recipe is one JSON file, named by the model's name. A file that was uploaded for such a model is beside
the recipes, under its digest. So is a note for each model that was pulled, so that it may be deleted: files that their
owner put into the models directory are left alone.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from miner.core.models.directory import SETTLED_NS, Stamp
from miner.core.models.names import without_tag
from miner.errors import InvalidRequestError, MinerError

DIRECTORY = ".created"
"""Inside the models directory: recipes in `models`, files in `blobs`, notes of pulled models in `pulled`."""
_NAME = re.compile(
    r"(?:[A-Za-z0-9][\w.-]{0,349}(?::[0-9]{1,5})?/)?(?:\w[\w-]{0,79}/)?\w[\w.-]{0,79}(?::\w[\w.-]{0,79})?", re.ASCII
)
"""Ollama's names: host, namespace, model and tag."""
_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")
_LARGEST = 4 << 20
"""Bytes of a recipe."""
_UNUSED_SECONDS = 86_400


class Recipe(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A created model."""

    name: str
    base: str | None = None
    """The name of the model that it is, by its files; None: it is `blob`."""
    blob: str | None = None
    """The digest of its own file."""
    parent: str = ""
    """The name of the model that it was created from."""
    template: str = ""
    """A chat template in Jinja's syntax, in the place of the model's own."""
    system: str = ""
    parameters: dict[str, Any] = {}
    messages: list[dict[str, Any]] = []
    licenses: list[str] = []
    created: float = 0.0
    """Seconds since 1970."""

    @property
    def digest(self) -> str:
        """The digest of the recipe."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()


_DECODER = msgspec.json.Decoder(Recipe)


class CreatedModels:
    """The models that were created beside a models directory. Reads and writes files: not for an event loop."""

    def __init__(self, models_dir: Path) -> None:
        self.directory = models_dir / DIRECTORY
        self._mark: tuple[int, int] | None = None
        self._known: dict[str, Recipe] = {}

    def all(self) -> dict[str, Recipe]:
        """The recipes by their names in lower case."""
        place = self.directory / "models"
        try:
            status = place.stat()
        except OSError:
            self._mark, self._known = None, {}
            return self._known
        mark = (status.st_ino, status.st_mtime_ns)
        if mark != self._mark:
            self._known = dict(sorted(_read(place)))
            settled = time.time_ns() - status.st_mtime_ns > SETTLED_NS
            self._mark = mark if settled else None
        return self._known

    def find(self, name: str) -> Recipe | None:
        """The created model of this name, in any case, with or without `:latest`."""
        return self.all().get(without_tag(name).lower())

    def save(self, recipe: Recipe) -> None:
        """Write a recipe in the place of one of the same name.

        Raises:
            MinerError: the directory cannot be written.
        """
        content = msgspec.json.encode(recipe)
        if len(content) > _LARGEST:
            raise InvalidRequestError(f"The model is larger than {_LARGEST} bytes.", param="messages")
        self._write("models", recipe.name, content)

    def remove(self, name: str) -> None:
        """Delete a created model, and its file where no other one uses it."""
        recipe = self.find(name)
        if recipe is None:
            return
        with _written(self.directory):
            self._file("models", recipe.name).unlink(missing_ok=True)
            self._mark = None
            if recipe.blob is not None and all(other.blob != recipe.blob for other in self.all().values()):
                self.blob(recipe.blob).unlink(missing_ok=True)

    def users_of(self, base: str) -> list[str]:
        """Names of the created models that are this one, by its files."""
        return [recipe.name for recipe in self.all().values() if recipe.base == base]

    # Files that were uploaded

    def blob(self, digest: str) -> Path:
        """The file of a digest, there or not.

        Raises:
            InvalidRequestError: it is no digest.
        """
        match = _DIGEST.fullmatch(digest)
        if match is None:
            raise InvalidRequestError("invalid digest format", param="digest")
        return self.directory / "blobs" / f"sha256-{match[1]}"

    def upload(self, digest: str) -> Upload:
        """A new file to write the content of a digest to.

        Raises:
            InvalidRequestError: it is no digest.
            MinerError: the directory cannot be written.
        """
        return Upload(self.blob(digest))

    def prune(self) -> None:
        """Delete uploaded files that no model uses, a day after their upload."""
        used = {self.blob(recipe.blob).name for recipe in self.all().values() if recipe.blob is not None}
        with suppress(OSError):
            for file in (self.directory / "blobs").iterdir():
                if file.name not in used and time.time() - file.stat().st_mtime > _UNUSED_SECONDS:
                    file.unlink()

    # Models that were pulled

    def note_pulled(self, alias: str, stamps: tuple[Stamp, ...]) -> None:
        """Note that these files of a model were downloaded here."""
        self._write("pulled", alias, msgspec.json.encode([stamp[1:3] for stamp in stamps]))

    def was_pulled(self, alias: str, stamps: tuple[Stamp, ...]) -> bool:
        """Whether a model's files are still those that were downloaded here."""
        try:
            noted = msgspec.json.decode(self._file("pulled", alias).read_bytes(), type=list[tuple[int, int]])
        except (OSError, msgspec.DecodeError):
            return False
        return noted == [stamp[1:3] for stamp in stamps]

    def forget_pulled(self, alias: str) -> None:
        """Delete the note of a model."""
        with suppress(OSError):
            self._file("pulled", alias).unlink()

    # Files

    def _file(self, kind: str, name: str) -> Path:
        # A long name's digest: a file name has at most 255 bytes.
        key = quote(name.lower(), safe="")
        key = key if len(key) <= 200 else hashlib.sha256(key.encode()).hexdigest()
        return self.directory / kind / f"{key}.json"

    def _write(self, kind: str, name: str, content: bytes) -> None:
        place = self._file(kind, name)
        with _written(self.directory):
            place.parent.mkdir(parents=True, exist_ok=True)
            number, temporary = tempfile.mkstemp(dir=place.parent, prefix=".new-")
            try:
                with os.fdopen(number, "wb") as file:
                    file.write(content)
                os.replace(temporary, place)
            finally:
                with suppress(OSError):
                    os.unlink(temporary)
        self._mark = None


class Upload:
    """A file that is being uploaded. Blocks: not for an event loop."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._hash = hashlib.sha256()
        with _written(place.parent):
            place.parent.mkdir(parents=True, exist_ok=True)
            number, self._name = tempfile.mkstemp(dir=place.parent, prefix=".upload-")
        self._file = os.fdopen(number, "wb")

    def write(self, data: bytes) -> None:
        """Append to the file."""
        with _written(self._place.parent):
            self._file.write(data)
        self._hash.update(data)

    def finish(self) -> None:
        """Keep the file.

        Raises:
            InvalidRequestError: its digest is another one.
        """
        wanted, found = f"sha256:{self._place.name[7:]}", f"sha256:{self._hash.hexdigest()}"
        if found != wanted:
            raise InvalidRequestError(f'digest mismatch, expected "{wanted}", got "{found}"', param="digest")
        with _written(self._place.parent):
            self._file.close()
            os.replace(self._name, self._place)

    def close(self) -> None:
        """Delete the file unless it was kept."""
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            os.unlink(self._name)


def checked_name(name: str) -> str:
    """A name for a created model, without `:latest`.

    Raises:
        InvalidRequestError: Ollama does not allow it.
    """
    short = without_tag(name)
    if _NAME.fullmatch(short) is None or ".." in short:
        raise InvalidRequestError(
            "invalid model name", param="model", hint="Use letters, digits and any of ._-, as in name:tag."
        )
    return short


def _read(place: Path) -> Iterator[tuple[str, Recipe]]:
    for file in place.glob("*.json"):
        if file.name.startswith("."):
            continue
        with suppress(OSError, ValueError):  # a file that is not ours, or went away
            if file.stat().st_size <= _LARGEST:
                recipe = _DECODER.decode(file.read_bytes())
                yield recipe.name.lower(), recipe


@contextmanager
def _written(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MinerError(
            f"The models directory cannot be written: {error.strerror or error}.",
            operator_hint=f"Make {directory} writable, or make room on its disk.",
        ) from error
