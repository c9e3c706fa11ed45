"""PoolBase: the table of a pool, what it says of its models, and how it changes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from miner.core._typing import override
from miner.core.llms.contract.backend import Backend
from miner.core.llms.contract.config_state import ConfigChange, ConfigState
from miner.core.llms.contract.failover import Cooldowns
from miner.core.llms.contract.rules import ModelRules
from miner.core.llms.LLMService import LLMService
from miner.core.llms.pool.members import Members
from miner.core.llms.pool.reloader import Reloader
from miner.core.llms.pool.table import ServedModel
from miner.errors import ConfigError

if TYPE_CHECKING:
    from miner.config.file.read import LoadedConfig


class PoolBase(LLMService):
    """A service over the table of a file, without its requests."""

    def __init__(self, config: Any = None) -> None:
        from miner.config.file.find import config_paths, find_config
        from miner.config.file.read import read_config

        super().__init__(config)
        path = find_config(self._settings.config)
        if path is None:
            places = " nor ".join(map(str, config_paths()))
            raise ConfigError(
                f"There is no configuration file: neither {places} is there.",
                operator_hint="Name one with MINER_CONFIG, or write one: `miner config init`.",
            )
        self._members = Members(self._settings, read_config(path))
        self._reloader = Reloader(self._members)
        self._cooldowns = Cooldowns()

    @classmethod
    @override
    def not_configured(cls, config: Any = None) -> str | None:
        from miner.config.config import config_of
        from miner.config.file.find import find_config

        if find_config(config_of(config).config) is not None:
            return None
        return "there is no miner.toml; `miner config init` writes one"

    # The table

    @property
    @override
    def config_state(self) -> ConfigState:
        return self._reloader.state

    @property
    def config_path(self) -> Path:
        """Where the file is."""
        return self._reloader.state.path

    @override
    async def reload(self, *, complete: bool = True) -> ConfigChange:
        return await self._reloader.reload(complete=complete)

    def apply(self, loaded: LoadedConfig) -> None:
        """Serve what a file says from now on. Models whose services did not change keep them; the others' requests in
        flight are finished first. To be called on the event loop that serves; `reload` reads the file as well.

        Raises:
            ConfigError: it cannot be served; nothing has changed then.
        """
        self._members.apply(loaded)

    def served(self, name: str | None) -> ServedModel | None:
        """The model of the table that a name means; None: there is none."""
        return self._members.table.find(name)

    @override
    def rules_of(self, name: str | None) -> ModelRules:
        table = self._members.table
        served = table.find(name)
        if served is None:
            return ModelRules(limits_keys=table.limits_keys, engine_fields=self.backend_of(name).engine_fields)
        return served.rules(limits_keys=table.limits_keys)

    @override
    def backend_of(self, name: str | None) -> Backend:
        holder = self._members.holder_of(name)
        return self if holder is None else holder.service

    @override
    def concurrency_of(self, name: str | None) -> int | None:
        holder = self._members.holder_of(name)
        return self.known_concurrency if holder is None else holder.concurrency

    @property
    @override
    def preloaded(self) -> list[str | None]:
        models = self._members.table.models.values()
        wanted = [served for served in models if served.model.preload]
        wanted.sort(key=lambda served: not served.model.pin)
        if wanted or any("preload" in served.model.model_fields_set for served in models):
            return [served.name for served in wanted]
        return [None] if self._members.table.default is not None else []

    # What it can do

    @property
    @override
    def capabilities(self) -> frozenset[str]:
        return frozenset().union(*(holder.service.capabilities for holder in self._members.holders()))

    @property
    @override
    def concurrency(self) -> int:
        return max((each.concurrency or each.service.concurrency for each in self._members.holders()), default=8)

    @property
    @override
    def known_concurrency(self) -> int | None:
        known = [holder.concurrency for holder in self._members.holders()]
        return max((each for each in known if each is not None), default=None)

    @property
    @override
    def backend_names(self) -> list[str]:
        return list(dict.fromkeys(holder.plan.backend for holder in self._members.holders()))

    @property
    @override
    def engine_fields(self) -> frozenset[str]:
        return frozenset().union(*(holder.service.engine_fields for holder in self._members.holders()))

    @property
    @override
    def queues_requests(self) -> bool:
        return True  # those for servers without a queue wait in their holder's
