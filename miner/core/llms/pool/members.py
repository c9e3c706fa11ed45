"""Members: the models of a file and the services behind them; a changed file changes only what it says otherwise."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from miner.config.file.merge import default_model
from miner.config.file.schema import Model
from miner.core.engine.rules import NO_RULES, EngineRules
from miner.core.llms.LLMService import LLMService
from miner.core.llms.openai.server import OpenAIServer
from miner.core.llms.pool.command import CommandHolder
from miner.core.llms.pool.command_engine import command_spec
from miner.core.llms.pool.cores import SharedCores
from miner.core.llms.pool.holder import Holder
from miner.core.llms.pool.host import EngineHost, SharesHost
from miner.core.llms.pool.limits import host_settings_of, sharers, with_limits
from miner.core.llms.pool.plan import ModelPlan, ServicePlan, config_for, plan_models, plan_service
from miner.core.llms.pool.rules import engine_rules
from miner.core.llms.pool.sent_names import sent_name
from miner.core.llms.pool.table import ModelTable, ServedModel
from miner.core.llms.registry import load_backend
from miner.core.wire import EngineStatus
from miner.errors import ConfigError, MinerError

if TYPE_CHECKING:
    from miner.config.config import MinerConfig
    from miner.config.file.read import LoadedConfig

logger = logging.getLogger("miner.pool")

_ADOPT_SECONDS = 10.0
"""Seconds until a new service knows its model's file, after which the engine of the old one is stopped regardless."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a file says, ready to be served."""

    loaded: LoadedConfig
    models: dict[str, ModelPlan]
    plans: dict[str, ServicePlan]
    """By their identity."""
    holders: dict[str, Holder]
    """Their services, by the same."""
    exposed: list[str]
    """Plans all of whose models are served."""
    rules: dict[str, EngineRules]
    """By the alias of the engine."""


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
        """Those that no model uses any more, while they have requests."""
        self._tasks: set[asyncio.Task[None]] = set()
        self.loaded = loaded
        self._exposed: list[Holder] = []
        """The services all of whose models are served."""
        self._rules: dict[str, EngineRules] = {}
        """By the alias of the engine."""
        self._sharers = 1
        """Engines that divide the memory among them."""
        self._sharing = SharedCores({}, {}, settings)
        self.host = self._new_host()
        """Where all engines run."""
        self.table = ModelTable({})
        self.apply(loaded)

    def apply(self, loaded: LoadedConfig) -> None:
        """Serve what a file says.

        Raises:
            ConfigError: it cannot be served; nothing has changed then.
        """
        self.serve(self.prepare(loaded))

    def prepare(self, loaded: LoadedConfig) -> Prepared:
        """What `serve` needs. Blocks, and changes nothing: to be called in a thread where requests are served.

        Raises:
            ConfigError: the file cannot be served.
        """
        models = plan_models(loaded)
        exposed = [plan_service(name, table, loaded) for name, table in loaded.content.backends.items() if table.expose]
        plans: dict[str, ServicePlan] = {}
        for plan in (*(model.service for model in models.values()), *exposed):
            plans.setdefault(plan.identity, plan)  # the engine of several models is named after the first
        rules = engine_rules(models, loaded.content)
        prepared = Prepared(loaded, models, plans, {}, [plan.identity for plan in exposed], rules)
        try:
            for key, plan in plans.items():
                prepared.holders[key] = self._existing(key, models) or self._make(plan, loaded)
        except ConfigError:
            self.discard(prepared)
            raise
        return prepared

    def discard(self, prepared: Prepared) -> None:
        """It is not served after all."""
        known = (*self.holders(), *self._retired)
        for holder in prepared.holders.values():
            if holder not in known:
                holder.discard()

    def _existing(self, key: str, models: dict[str, ModelPlan]) -> Holder | None:
        """The service of a plan that is there already, also one whose last requests are being finished. One whose
        engine has the name that another model has now is not used any more.
        """
        for holder in (*self.holders(), *self._retired):
            if holder.key == key and not holder.closed:
                namesake = models.get(holder.plan.alias or "")
                return holder if namesake is None or namesake.service.identity == key else None
        return None

    def serve(self, prepared: Prepared) -> None:
        """Serve what was prepared. To be called on the loop that serves; services that are not needed any more finish
        their requests.
        """
        loaded, models = prepared.loaded, prepared.models
        # One that was there when it was prepared may have been closed since.
        holders = {
            key: self._make(holder.plan, loaded) if holder.closed else holder
            for key, holder in prepared.holders.items()
        }
        before = self.holders()
        for key, holder in holders.items():
            holder.revive()
            holder.change(prepared.plans[key].table, *self._queue_limits(loaded))
            if holder.plan.table.command is not None and isinstance(holder.service, OpenAIServer):
                # A command that we run for one model need not call it as the file does.
                own = [plan.model for plan in models.values() if plan.service.identity == key]
                holder.service.takes_any_name = all(model.name is None for model in own)
            if isinstance(holder, CommandHolder):
                own_plans = [plan for plan in models.values() if plan.service.identity == key]
                holder.send_names([sent_name(plan, loaded) for plan in own_plans])
        self._retired = [holder for holder in self._retired if not holder.closed and holder not in holders.values()]
        leaving = [holder for holder in before if holder not in holders.values()]
        self._retired += leaving
        self.table = ModelTable(
            {name: _served(plan, holders[plan.service.identity]) for name, plan in models.items()},
            default_model(loaded.content) or self._settings.default_model,
        )
        self._holders, self.loaded = holders, loaded
        self._exposed = [holders[key] for key in prepared.exposed]
        # An engine that stays keeps its name, whichever of its models comes first now.
        names = {holder.plan.engine or "": prepared.plans[key].engine or "" for key, holder in holders.items()}
        self._rules = {**prepared.rules, **{alias: prepared.rules.get(name, NO_RULES) for alias, name in names.items()}}
        self._sharing = SharedCores(models, prepared.rules, with_limits(self._settings, loaded))
        self._sharers = sharers(models, loaded.content)
        self._configure(self.host)
        if leaving:
            new = [holder for holder in holders.values() if holder not in before]
            task = asyncio.get_running_loop().create_task(self._retire(leaving, new))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _retire(self, leaving: list[Holder], new: list[Holder]) -> None:
        """Close services once their requests are done, after the new ones have taken over the engines that they share
        with them: an engine whose options did not change stays.
        """
        try:
            if any(holder.plan.runs_engines for holder in leaving):
                for holder in new:
                    if holder.plan.runs_engines:
                        with suppress(MinerError, TimeoutError):  # whoever uses it gets the error
                            async with asyncio.timeout(_ADOPT_SECONDS), holder.use(queued=False) as service:
                                await service.resolve_model(None)
        finally:
            for holder in leaving:
                if holder not in self._holders.values():
                    holder.retire()

    async def find(self, name: str | None) -> ServedModel:
        """The model that a name means, also one that a backend exposes. No other task runs between this and the first
        step of the caller, so that its service is open then.

        Raises:
            ModelNotFoundError: there is none.
        """
        served = self.table.find(name)
        if served is not None:
            return served
        name = self.table.default if name is None else name
        if name is not None:
            for holder in self._exposed:
                try:
                    async with holder.use(queued=False) as service:
                        info = await service.resolve_model(name)
                except MinerError:
                    continue
                if not holder.closed:
                    return self.exposed_model(holder, info.id if info is not None else name)
        raise self.table.missing(name)

    def holder_of(self, name: str | None) -> Holder | None:
        """The service that a name leads to, as far as that is known without asking any; None: it is not."""
        served = self.table.find(name)
        if served is not None:
            return served.holder
        name = self.table.default if name is None else name
        for holder in self._exposed:  # in the order of `find`
            if name in holder.service.models:
                return holder
        return self._exposed[0] if len(self._exposed) == 1 else None

    def current(self, served: ServedModel) -> ServedModel:
        """A model that was found before, as it is served now: the file may have changed while another was tried.

        Raises:
            ModelNotFoundError: it is not served any more.
        """
        if not served.holder.closed:
            return served
        found = self.table.find(served.name)
        if found is None:
            raise self.table.missing(served.name)
        return found

    def _queue_limits(self, loaded: LoadedConfig) -> tuple[int, float]:
        """Requests that may wait for a server without a queue of its own, and the seconds that they do."""
        settings, limits = self._settings, loaded.content.limits
        max_queue = settings.max_queue if limits.max_queue is None else limits.max_queue
        return max_queue, limits.queue_timeout or settings.queue_timeout

    def _make(self, plan: ServicePlan, loaded: LoadedConfig) -> Holder:
        config = config_for(plan, self._settings)
        service = _service(plan, config, loaded)
        self._share_host(service)
        for setting in ("timeout", "key", "address"):
            if hasattr(type(service), f"{setting}_setting"):
                key = "url" if setting == "address" else setting
                setattr(service, f"{setting}_setting", f"backends.{plan.backend}.{key}")
        max_queue, queue_timeout = self._queue_limits(loaded)
        if plan.table.command is None:
            return Holder(plan, service, max_queue=max_queue, queue_timeout=queue_timeout)
        try:
            spec = command_spec(plan.backend, plan.table, loaded.directory, plan.secret)
        except ConfigError as error:
            raise ConfigError(
                f"{loaded.path}: {error.message}", hint=error.hint, operator_hint=error.operator_hint
            ) from error
        return CommandHolder(plan, service, config, spec, self.host, max_queue=max_queue, queue_timeout=queue_timeout)

    def _new_host(self) -> EngineHost:
        host = EngineHost(host_settings_of(self._settings, self.loaded))
        self._configure(host)
        return host

    def _configure(self, host: EngineHost) -> None:
        rules = self._rules
        host.configure(host_settings_of(self._settings, self.loaded), lambda spec: rules.get(spec.alias, NO_RULES))
        # Engines that are started from now on have their share of the cores by the new table. Those that run keep their
        # threads: where they are too many together, engines take turns.
        self._sharing.apply(host)
        host.sharers = self._sharers

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
        for task in self._tasks:
            task.cancel()
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


def _service(plan: ServicePlan, config: Any, loaded: LoadedConfig) -> LLMService:
    where = f"{loaded.path}: backends.{plan.backend}.kind = {plan.kind!r}"
    try:
        service = load_backend(plan.kind, config).service(config)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error.message}", operator_hint=error.operator_hint) from error
    except (Exception, SystemExit) as error:  # a third party's backend may raise anything: what is served stays
        raise ConfigError(f"{where}: the backend cannot be created: {type(error).__name__}: {error}") from error
    service.name = plan.backend
    return service


def _served(plan: ModelPlan, holder: Holder) -> ServedModel:
    return ServedModel(plan.name, plan.model, holder, plan.upstream, plan.preset)
