"""From the tables of `miner.toml` to the services that serve its models: which class, with which settings."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from miner.config.config import MinerConfig
from miner.config.file.merge import LOCAL, with_defaults
from miner.config.file.read import LoadedConfig
from miner.config.file.schema import Backend, Model
from miner.core.llms.pool.options import llamacpp_settings
from miner.core.llms.pool.presets import preset_for
from miner.core.wire import Preset
from miner.errors import ConfigError

ADDRESS = {
    "vllm": "vllm_api_base", "ollama": "ollama_base_url", "openai": "openai_api_base", "llamacpp": "llamacpp_api_base",
}  # fmt: skip
"""The field of MinerConfig with the URL of each built-in kind."""
_KEY = {"vllm": "vllm_api_key", "openai": "openai_api_key", "llamacpp": "llamacpp_api_key"}
_TIMEOUT = {
    "vllm": "vllm_timeout", "ollama": "ollama_timeout", "openai": "openai_timeout", "llamacpp": "llamacpp_timeout",
}  # fmt: skip
_COMMON = ("connect_timeout", "max_connections", "max_retries")
_NOT_STARTED = "http://127.0.0.1:1"
VERSIONED = {"vllm", "openai"}
"""Kinds whose URL ends in /v1."""


@dataclass(frozen=True, slots=True)
class ServicePlan:
    """One service: plans that are equal share one, also over a change of the file."""

    backend: str
    """NAME of its `[backends.NAME]`."""
    kind: str
    table: Backend
    settings: tuple[tuple[str, Any], ...] = ()
    """Fields of MinerConfig, sorted."""
    alias: str | None = None
    """llama.cpp engines: the name of the engine. Not compared: models that differ in nothing else share one."""
    foreign: tuple[tuple[str, Any], ...] = ()
    """A backend from another package: the attributes of its config object."""

    @property
    def identity(self) -> str:
        """What makes two plans the same."""
        table = {} if self.runs_engines else self.table.model_dump(exclude={"expose", "concurrency"})
        return repr((self.backend, self.kind, table, self.settings, self.foreign))

    @property
    def secret(self) -> str | None:
        """The key of its server."""
        found: str | None = dict(self.foreign or self.settings).get(_KEY.get(self.kind, "key"))
        return found

    @property
    def model_path(self) -> str | None:
        """The file or reference of its llama.cpp engine."""
        found: str | None = dict(self.settings).get("model_path")
        return found

    @property
    def runs_engines(self) -> bool:
        """Whether llama.cpp engines are started for it."""
        return self.kind == "llamacpp" and self.table.url is None and self.table.command is None

    @property
    def engine(self) -> str | None:
        """The name of the engine that is started here for it; None: none is."""
        return self.backend if self.table.command is not None else self.alias


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """One model of the table."""

    name: str
    model: Model
    """With `[defaults]` applied."""
    service: ServicePlan
    upstream: str | None
    """Its name at the service; None: the service has only this one."""
    preset: Preset | None = None
    """What it adds to requests that do not set it."""


def plan_models(loaded: LoadedConfig) -> dict[str, ModelPlan]:
    """The models of a file, in its order.

    Raises:
        ConfigError: a model names a backend that is not there, or a file that is missing.
    """
    content, plans = loaded.content, dict[str, ModelPlan]()
    for name, own in content.models.items():
        model = with_defaults(own, content)
        backend = model.backend or LOCAL
        table = content.backends.get(backend)
        if table is None:
            if backend != LOCAL:
                known = ", ".join(content.backends) or "none"
                raise ConfigError(
                    f"{loaded.path}: models.{name}.backend = {backend!r}: there is no such backend.",
                    operator_hint=f"Backends of this file: {known}.",
                )
            table = Backend.model_construct(kind=LOCAL)
        service = plan_service(backend, table, loaded, name, model)
        upstream = None if service.runs_engines else model.name or name
        plans[name] = ModelPlan(name, model, service, upstream, preset_for(name, model, loaded))
    return plans


def plan_service(
    backend: str, table: Backend, loaded: LoadedConfig, name: str | None = None, model: Model | None = None
) -> ServicePlan:
    """The service of a backend, or of one of its models where each has a service of its own."""
    kind = table.kind
    settings: dict[str, Any] = {key: value for key in _COMMON if (value := getattr(table, key)) is not None}
    if table.url is not None and kind in ADDRESS:
        settings[ADDRESS[kind]] = _with_version(table.url) if kind in VERSIONED else table.url
    if table.command is not None and kind in ADDRESS:
        settings[ADDRESS[kind]] = _NOT_STARTED  # the command has its address when it runs
    secret = _secret(table, loaded, backend)
    if secret is not None and kind in _KEY:
        settings[_KEY[kind]] = secret
    timeout = table.timeout if model is None or model.timeout is None else model.timeout
    if timeout is not None and kind in _TIMEOUT:
        settings[_TIMEOUT[kind]] = timeout
    foreign: dict[str, Any] = {}
    if kind not in ADDRESS:
        foreign = {"url": table.url, "key": secret, "timeout": timeout, **table.options}
    if kind == "llamacpp":
        for field, value in (("llamacpp_server", table.server), ("models_dir", table.models_dir)):
            if value is not None:
                settings[field] = _path(value, loaded.directory)
    plan = ServicePlan(backend, kind, table, tuple(sorted(settings.items())), foreign=tuple(foreign.items()))
    if model is None or foreign:
        return plan
    if kind == "ollama" and model.context is not None:
        settings["ollama_num_ctx"] = model.context
    if plan.runs_engines and name is not None:
        try:
            own = llamacpp_settings(model, loaded.content.defaults, loaded.directory)
        except ConfigError as error:
            raise loaded.error_at(("models", name), error) from error
        own.setdefault("model_path", model.name or name)
        settings |= own
    return ServicePlan(backend, kind, table, tuple(sorted(settings.items())), name if plan.runs_engines else None)


def config_for(plan: ServicePlan, base: MinerConfig) -> Any:
    """The config object of a service: the environment's settings, and those of the plan over them."""
    settings = dict(plan.settings)
    if plan.alias is not None:
        settings["llamacpp_alias"] = plan.alias
    if plan.kind == "llamacpp" and plan.runs_engines:
        settings.setdefault("llamacpp_api_base", None)
        if plan.alias is None:
            settings.setdefault("model_path", None)
    settings.setdefault("default_model", None)
    if plan.kind in ADDRESS:
        return MinerConfig(**{**_explicit(base), **settings})
    return ForeignConfig(MinerConfig(**{**_explicit(base), **settings}), plan)


class ForeignConfig:
    """The config object of a backend from another package: `url`, `key`, `timeout` and the `options` of its table are
    attributes, and so are miner's own settings.
    """

    def __init__(self, base: MinerConfig, plan: ServicePlan) -> None:
        self.url: str | None = None
        vars(self).update(plan.foreign)
        self._base = base

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._base, name)


def _explicit(config: MinerConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in config.model_fields_set}


def _with_version(url: str) -> str:
    return url if url.endswith("/v1") else f"{url}/v1"


def _path(value: str, directory: Path) -> str:
    """A path from the file's directory; a bare name stays: a program on PATH."""
    return str(directory / Path(value).expanduser()) if os.sep in value or value.startswith("~") else value


def _secret(table: Backend, loaded: LoadedConfig, backend: str) -> str | None:
    if table.key_file is not None:
        path = loaded.directory / Path(table.key_file).expanduser()
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            why = (error.strerror if isinstance(error, OSError) else None) or str(error)
            raise ConfigError(f"{loaded.path}: backends.{backend}.key_file: {path} cannot be read: {why}.") from None
        return lines[0].strip() if lines else ""
    return table.plain_key or table.key
