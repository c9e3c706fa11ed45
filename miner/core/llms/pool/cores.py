"""How the models of a table share the cores: those whose llama.cpp was built without OpenMP have a share each."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from miner.core.engine.launchers import find_launcher
from miner.core.engine.rules import NO_RULES, EngineRules, GroupRule
from miner.core.engine.threads import CpuEngine, most_threads, thread_share
from miner.core.llms.pool.host import EngineHost
from miner.core.llms.pool.plan import ModelPlan, ServicePlan, config_for
from miner.core.models.memory.available import gpu_is_likely
from miner.errors import EngineStartError

if TYPE_CHECKING:
    from miner.config.config import MinerConfig

logger = logging.getLogger("miner.pool")


class SharedCores:
    """The threads of the engines of a table. Computed when the first one is started, in its thread: that reads
    libraries.

    Args:
        rules: of each engine, by its alias.
        settings: of all engines.
    """

    def __init__(
        self, models: Mapping[str, ModelPlan], rules: Mapping[str, EngineRules], settings: MinerConfig
    ) -> None:
        self._plans = {plan.service.engine or name: plan.service for name, plan in models.items()}
        self._rules = rules
        self._settings = settings
        self._shares: dict[int, int] = {}
        self._lock = threading.Lock()

    def apply(self, host: EngineHost) -> None:
        """Engines that are started on this host from now on have their share."""
        host.cores.limit = self._settings.llamacpp_cores
        known = weakref.ref(host)  # its engines outlive it, and must not keep it alive

        def share(cores: int) -> int:
            owner = known()
            with self._lock:
                if cores not in self._shares:
                    self._shares[cores] = self._compute(cores, owner.last_budget().available if owner else None)
                return self._shares[cores]

        host.cores.sharing = share

    def _compute(self, cores: int, memory: int | None) -> int:
        engines = self._engines()
        max_loaded = self._settings.llamacpp_max_loaded
        share = thread_share(cores, list(engines.values()), max_loaded=max_loaded, memory=memory)
        most = most_threads(list(engines.values()), share, max_loaded=max_loaded, memory=memory)
        explicit = [name for name, engine in engines.items() if engine.threads is not None]
        if most > cores and explicit:
            logger.warning(
                "The engines that may be loaded together have up to %d threads for %d cores, with the `threads` of %s: "
                "those that compute at once take turns.", most, cores, ", ".join(explicit),
            )  # fmt: skip
        elif share < cores:
            logger.info(
                "Engines without OpenMP have %d threads each on %d cores: others may be loaded beside them, and they "
                "would slow each other down. With `threads` a model has more, and they take turns.", share, cores,
            )  # fmt: skip
        return share

    def _engines(self) -> dict[str, CpuEngine]:
        """Those that compute on processors, without OpenMP, by their aliases."""
        found: dict[str, tuple[str, CpuEngine]] = {}
        for name, plan in self._plans.items():
            groups = self._rules.get(name, NO_RULES).groups
            if (engine := _engine_of(plan, self._settings, groups)) is not None:
                found.setdefault(plan.identity, (name, engine))
        return dict(found.values())


def _engine_of(plan: ServicePlan, settings: MinerConfig, groups: tuple[GroupRule, ...]) -> CpuEngine | None:
    if not plan.runs_engines:
        return None
    config = config_for(plan, settings)
    try:
        launcher = find_launcher(config.llamacpp_server)
    except EngineStartError:  # none will be started
        return None
    if launcher.uses_openmp():
        return None
    if launcher.may_offload(config.llamacpp_n_gpu_layers) and gpu_is_likely():
        return None
    try:
        size = Path(config.model_path or "").stat().st_size
    except OSError:  # a name in the models directory, or not there
        size = 0
    return CpuEngine(config.llamacpp_threads, size, groups)
