"""Members: the models of a file and the services behind them; a changed file changes only what it says otherwise."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from miner.config.file.merge import default_model
from miner.config.file.schema import Model
from miner.core.engine.rules import NO_RULES
from miner.core.llms.llamacpp.engine_pool import host_settings
from miner.core.llms.LLMService import LLMService
from miner.core.llms.pool.command import CommandHolder
from miner.core.llms.pool.command_engine import command_spec
from miner.core.llms.pool.holder import Holder
from miner.core.llms.pool.host import EngineHost, SharesHost
from miner.core.llms.pool.memory_meter import HostSettings
from miner.core.llms.pool.plan import ModelPlan, ServicePlan, config_for, plan_models, plan_service
from miner.core.llms.pool.rules import engine_rules
from miner.core.llms.pool.table import ModelTable, ServedModel, preset_for
from miner.core.llms.registry import load_backend
from miner.core.wire import EngineStatus
from miner.errors import ConfigError

if TYPE_CHECKING:
    from miner.config.config import MinerConfig
    from miner.config.file.read import LoadedConfig

logger = logging.getLogger("miner.pool")


class Members:
    """What is served.

    Args:
        settings: the environment's, which the file overrides.

    Raises:
        ConfigError: the file cannot be served.
    """

    def __init__(self, settings: MinerConfig, loaded: LoadedConfig) -> None:
        self._settings = settings
        self._holders: dict[str, Holder] = {}
        """By the identity of their plans."""
        self._retired: list[Holder] = []
        self.loaded = loaded
        self.host = self._new_host()
        """Where all engines run."""
        self.table = ModelTable({})
        self.apply(loaded)

    def apply(self, loaded: LoadedConfig) -> None:
        """Serve what a file says.

        Raises:
            ConfigError: it cannot be served; nothing has changed then.
        """
        models = plan_models(loaded)
        exposed = [plan_service(name, table, loaded) for name, table in loaded.content.backends.items() if table.expose]
        plans: dict[str, ServicePlan] = {}
        for plan in (*(model.service for model in models.values()), *exposed):
            plans.setdefault(plan.identity, plan)  # the engine of several models is named after the first
        holders = {key: self._holders.get(key) or self._make(plan) for key, plan in plans.items()}
        table = ModelTable(
            {name: _served(plan, holders[plan.service.identity]) for name, plan in models.items()},
            default_model(loaded.content) or self._settings.default_model,
        )
        for key, holder in self._holders.items():
            if key not in holders:
                holder.retire()
                self._retired.append(holder)
        self._retired = [holder for holder in self._retired if not holder.closed]
        self._holders, self.table, self.loaded = holders, table, loaded
        rules = engine_rules(models, loaded.content)
        self.host.configure(self._host_settings(loaded), lambda spec: rules.get(spec.alias, NO_RULES))
        self._exposed = [holders[plan.identity] for plan in exposed]

    def _make(self, plan: ServicePlan) -> Holder:
        config = config_for(plan, self._settings)
        try:
            service = load_backend(plan.kind, config).service(config)
        except ConfigError as error:
            raise ConfigError(
                f"{self.loaded.path}: backends.{plan.backend}.kind = {plan.kind!r}: {error.message}",
                operator_hint=error.operator_hint,
            ) from error
        service.name = plan.backend
        self._share_host(service)
        for setting in ("timeout", "key", "address"):
            if hasattr(type(service), f"{setting}_setting"):
                key = "url" if setting == "address" else setting
                setattr(service, f"{setting}_setting", f"backends.{plan.backend}.{key}")
        settings, limits = self._settings, self.loaded.content.limits
        max_queue = settings.max_queue if limits.max_queue is None else limits.max_queue
        queue_timeout = limits.queue_timeout or settings.queue_timeout
        if plan.table.command is None:
            return Holder(plan, service, max_queue=max_queue, queue_timeout=queue_timeout)
        try:
            spec = command_spec(plan.backend, plan.table, self.loaded.directory, plan.secret)
        except ConfigError as error:
            raise ConfigError(
                f"{self.loaded.path}: {error.message}", hint=error.hint, operator_hint=error.operator_hint
            ) from error
        return CommandHolder(plan, service, config, spec, self.host, max_queue=max_queue, queue_timeout=queue_timeout)

    def _new_host(self) -> EngineHost:
        return EngineHost(self._host_settings(self.loaded))

    def _host_settings(self, loaded: LoadedConfig) -> HostSettings:
        limits = loaded.content.limits
        return host_settings(_with_limits(self._settings, loaded), limits.gpu_memory or ())

    def _share_host(self, service: LLMService) -> None:
        if isinstance(service, SharesHost):
            service.host = self.host

    def holders(self) -> list[Holder]:
        """All services."""
        return list(self._holders.values())

    def engine_status(self) -> list[EngineStatus]:
        """All engines that were requested so far."""
        return self.host.started.status() if self.host.started is not None else []

    def exposed(self) -> list[Holder]:
        """The services all of whose models are served."""
        return self._exposed

    def exposed_model(self, holder: Holder, name: str) -> ServedModel:
        """A model that is not in the table, but exposed by its service."""
        return ServedModel(name, Model(), holder, name)

    def served_by(self, holder: Holder) -> Iterable[ServedModel]:
        """The models of the table that a service has."""
        return [served for served in self.table.models.values() if served.holder is holder]

    async def aclose(self) -> None:
        """Close all services and stop all engines; the next use opens them again."""
        results = await asyncio.gather(
            *(holder.aclose() for holder in (*self._holders.values(), *self._retired)), return_exceptions=True
        )
        await self.host.aclose()
        self.host = self._new_host()
        for holder in self._holders.values():
            self._share_host(holder.service)
            if isinstance(holder, CommandHolder):
                holder.move_to(self.host)
        for result in results:
            if isinstance(result, BaseException):
                raise result


def _served(plan: ModelPlan, holder: Holder) -> ServedModel:
    return ServedModel(plan.name, plan.model, holder, plan.upstream, preset_for(plan.model))


def _with_limits(settings: MinerConfig, loaded: LoadedConfig) -> MinerConfig:
    """The settings with those of `[limits]`."""
    limits = loaded.content.limits
    fields = {
        "llamacpp_memory_budget": limits.memory, "llamacpp_max_loaded": limits.max_loaded,
        "max_queue": limits.max_queue, "queue_timeout": limits.queue_timeout, "kv_cache": limits.kv_cache,
    }  # fmt: skip
    return settings.model_copy(update={name: value for name, value in fields.items() if value is not None})
