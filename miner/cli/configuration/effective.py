"""All values that a `miner.toml` leads to, and where each comes from."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from miner.cli.configuration.settings import DescribedSetting
from miner.config.config import MinerConfig
from miner.config.file.kinds import COMMAND_KEYS, ENGINE_KEYS, LOADED_KEYS, BackendFacts, backend_of
from miner.config.file.lines import KeyPath
from miner.config.file.merge import LOCAL, with_defaults
from miner.config.file.problems import hidden, shown_path, value_at
from miner.config.file.read import LoadedConfig
from miner.config.file.schema import Backend, Limits, Model, ModelOptions
from miner.config.file.variables import Variables
from miner.core.engine.flags.check import canonical
from miner.core.engine.flags.owned import KEYED

_LIMITS = {
    "memory": "llamacpp_memory_budget", "max_loaded": "llamacpp_max_loaded", "max_queue": "max_queue",
    "queue_timeout": "queue_timeout", "kv_cache": "kv_cache",
}  # fmt: skip
_MODELS = {"context": "llamacpp_ctx_size", "slots": "llamacpp_parallel", "keep_alive": "llamacpp_idle_timeout"}
"""Settings of a llama.cpp engine that have another name than the key."""
_SERVERS = {"url": "api_base", "key": "api_key", "timeout": "timeout"}
_COMMON = ("connect_timeout", "max_connections", "max_retries", "models_dir")
_SOURCES = ("file", "hub", "name")


@dataclass(frozen=True, slots=True)
class Value:
    """One key and what it is in force."""

    key: str
    value: Any
    """Secrets are hidden; None: nothing is set."""
    source: str
    """miner.toml:LINE, with [defaults] or variables where it is so; the environment; .env; default."""


def tables(loaded: LoadedConfig, settings: Iterable[DescribedSetting]) -> Iterator[tuple[KeyPath, list[Value]]]:
    """All tables that have an effect, in the order limits, backends, models, groups, each with all its values.

    Args:
        settings: those that count where the file has no key.
    """
    finder = _Finder(loaded, settings)
    content = loaded.content
    yield ("limits",), finder.values(("limits",), content.limits, Limits.model_fields, _LIMITS)
    for name, backend in content.backends.items():
        path: KeyPath = ("backends", name)
        yield path, finder.values(path, backend, _keys_of_backend(backend), _settings_of_backend(backend))
    for name, own in content.models.items():
        found = backend_of(content, own)
        if isinstance(found, BackendFacts):
            yield ("models", name), finder.model(name, own, found)
    for name, group in content.groups.items():
        path = ("groups", name)
        yield path, finder.values(path, group, type(group).model_fields, {})


def _keys_of_backend(backend: Backend) -> Iterator[str]:
    here = backend.kind == LOCAL and backend.url is None and backend.command is None
    for key in Backend.model_fields:
        if key in COMMAND_KEYS or key == "command":
            fits = backend.command is not None and (key != "sleep" or backend.kind == "vllm")
        elif key in ("server", "models_dir"):
            fits = here
        elif key == "start_timeout":
            fits = here or backend.command is not None
        elif key in ("key", "key_file", "plain_key"):
            fits = getattr(backend, key) is not None or (key == "key" and not here and backend.kind != "ollama")
        else:
            fits = key != "url" or (backend.command is None and not here)
        if fits:
            yield key


def _settings_of_backend(backend: Backend) -> dict[str, str]:
    own = {key: f"{backend.kind}_{name}" for key, name in _SERVERS.items()}
    own |= {"url": "ollama_base_url"} if backend.kind == "ollama" else {}
    if backend.key_file is not None or backend.plain_key is not None:
        del own["key"]
    if backend.kind == LOCAL:
        own |= {"server": "llamacpp_server", "start_timeout": "llamacpp_start_timeout"}
    return own | {key: key for key in _COMMON}


class _Finder:
    def __init__(self, loaded: LoadedConfig, settings: Iterable[DescribedSetting]) -> None:
        self._loaded = loaded
        self._settings = {each.name: each for each in settings}
        self._file = shown_path(loaded.path)
        self._variables = Variables(loaded.written, None)
        self._environment = {name.upper() for name, value in os.environ.items() if value}

    def values(self, path: KeyPath, table: BaseModel, keys: Iterable[str], settings: Mapping[str, str]) -> list[Value]:
        """The values of a table; those that it does not set are the settings of the same meaning, else defaults."""
        return [self._value(path, key, table, settings.get(key)) for key in keys]

    def _value(self, path: KeyPath, key: str, table: BaseModel, setting: str | None) -> Value:
        if key in table.model_fields_set:
            return self._written((*path, key), key, getattr(table, key))
        if setting is not None and setting in MinerConfig.model_fields:
            return self._setting(key, setting)
        return Value(key, _plain(type(table).model_fields[key].get_default()), "default")

    def model(self, name: str, own: Model, backend: BackendFacts) -> list[Value]:
        """The values of a model, with those of [defaults]."""
        path: KeyPath = ("models", name)
        merged = with_defaults(own, self._loaded.content)
        found = [Value("backend", merged.backend, self._source_of_backend(path, own))]
        for key in self._keys_of_model(own, backend):
            if key == "sampling":
                found += self._sampling(path, own, merged)
            elif key in own.model_fields_set:
                found.append(self._written((*path, key), key, getattr(own, key)))
            elif (flag := self._flag_for(key, own)) is not None:  # over [defaults]
                found.append(self._written((*path, "flags", flag), key, own.flags[flag]))
            elif key in ModelOptions.model_fields and key in self._loaded.content.defaults.model_fields_set:
                found.append(self._written(("defaults", key), key, getattr(merged, key), " [defaults]"))
            else:
                found.append(self._value(path, key, own, self._setting_of_model(key, backend)))
        return found

    @staticmethod
    def _flag_for(key: str, own: Model) -> str | None:
        """The flag that sets this key under llama-server's name."""
        return next((name for name in own.flags if KEYED.get(canonical(name)[0], ("",))[0] == key), None)

    def _keys_of_model(self, own: Model, backend: BackendFacts) -> Iterator[str]:
        does = ("context", "keep_alive", "preload") if backend.kind == "ollama" else ()
        for key in Model.model_fields:
            if key in ENGINE_KEYS:
                fits = backend.starts_engines or key in does
            elif key in LOADED_KEYS:
                fits = backend.starts_engines or backend.is_command or key in does
            elif key in _SOURCES:
                fits = getattr(own, key) is not None
            else:
                fits = key != "backend"
            if fits:
                yield key

    def _setting_of_model(self, key: str, backend: BackendFacts) -> str | None:
        if backend.kind == "ollama" and key == "context":
            return "ollama_num_ctx"
        if key == "timeout":
            return None if self._backend_sets(backend, key) else f"{backend.kind}_timeout"
        if not backend.starts_engines or key not in (*ENGINE_KEYS, "keep_alive"):
            return None
        return _MODELS.get(key, f"llamacpp_{key}")

    def _backend_sets(self, backend: BackendFacts, key: str) -> bool:
        table = self._loaded.content.backends.get(backend.name)
        return table is not None and key in table.model_fields_set

    def _sampling(self, path: KeyPath, own: Model, merged: Model) -> Iterator[Value]:
        for key in sorted(merged.sampling.model_fields_set):
            here = "sampling" in own.model_fields_set and key in own.sampling.model_fields_set
            where: KeyPath = (*path, "sampling", key) if here else ("defaults", "sampling", key)
            value = getattr(merged.sampling, key)
            yield self._written(where, f"sampling.{key}", value, "" if here else " [defaults]")

    def _source_of_backend(self, path: KeyPath, own: Model) -> str:
        if own.backend is not None:
            return self._written((*path, "backend"), "backend", own.backend).source
        if self._loaded.content.defaults.backend is not None:
            return self._written(("defaults", "backend"), "backend", None, " [defaults]").source
        return "the only one" if len(self._loaded.content.backends) == 1 else "default"

    def _written(self, path: KeyPath, key: str, value: Any, suffix: str = "") -> Value:
        source = f"{self._file}:{self._loaded.lines.line(path)}{suffix}"
        text = value_at(self._loaded.written, path)
        for name in dict.fromkeys(_variables_in(text, self._variables)):
            source += f", ${{{name}}} from {self._place_of(name)}"
        shown = hidden(_plain(value), path)
        if key == "key":
            shown = "***"
        return Value(key, shown, source)

    def _place_of(self, name: str) -> str:
        if name in self._variables.own:
            return "[variables]"
        if name == "PORT":
            return "the start"
        return "the environment" if name.upper() in self._environment else ".env"

    def _setting(self, key: str, setting: str) -> Value:
        found = self._settings[setting]
        source = found.source
        if source == "environment":
            source = f"{found.variable} in the environment"
        elif found.changed:
            source = f"{found.variable} in {source}"
        if found.problem:
            source += f", invalid: {found.problem}"
        return Value(key, found.value, source)


def _variables_in(value: Any, variables: Variables) -> Iterator[str]:
    if isinstance(value, str):
        yield from variables.sources(value)
    elif isinstance(value, (list, dict)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _variables_in(each, variables)


def _plain(value: Any) -> Any:
    """The value without our classes; keys that are not set are left out."""
    if isinstance(value, BaseModel):
        return value.model_dump(exclude_unset=True)
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value
