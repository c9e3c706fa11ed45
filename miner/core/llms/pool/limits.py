"""From `[limits]` of `miner.toml` to what an engine host needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from miner.core.llms.llamacpp.engine_pool import host_settings
from miner.core.llms.pool.memory_meter import HostSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from miner.config.config import MinerConfig
    from miner.config.file.read import LoadedConfig
    from miner.config.file.schema import ConfigFile
    from miner.core.llms.pool.plan import ModelPlan


def host_settings_of(settings: MinerConfig, loaded: LoadedConfig) -> HostSettings:
    """The environment's settings with the limits of a file."""
    return host_settings(with_limits(settings, loaded), loaded.content.limits.gpu_memory or ())


def with_limits(settings: MinerConfig, loaded: LoadedConfig) -> MinerConfig:
    """The settings with those of `[limits]`."""
    limits = loaded.content.limits
    fields = {
        "llamacpp_memory_budget": limits.memory, "llamacpp_max_loaded": limits.max_loaded,
        "llamacpp_cores": limits.cores,
        "max_queue": limits.max_queue, "queue_timeout": limits.queue_timeout, "kv_cache": limits.kv_cache,
    }  # fmt: skip
    return settings.model_copy(update={name: value for name, value in fields.items() if value is not None})


def sharers(models: Mapping[str, ModelPlan], content: ConfigFile) -> int:
    """How many engines of a file may be loaded at once: so many divide the memory among them."""
    engines = {plan.service.identity for plan in models.values() if plan.service.engine is not None}
    count = len(engines)
    for group in content.groups.values():
        inside = {models[name].service.identity for name in group.models if name in models} & engines
        most = group.max_loaded or len(inside)
        count -= max(0, len(inside) - most)
    return max(1, min(count, content.limits.max_loaded or count))
