"""What the models of `miner.toml` take of the memory, and which fit together: by the planner that evicts engines when
they are served. Nothing is started.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, cast

from miner.core.engine.eviction import plan_eviction
from miner.core.engine.limits import PoolLimits
from miner.core.engine.member import Member, State
from miner.core.engine.rules import EngineRules
from miner.core.engine.spec import AnySpec, Engine
from miner.core.llms.llamacpp.catalog import LocalModels
from miner.core.llms.pool.command_engine import CommandSource, command_spec
from miner.core.llms.pool.hints import with_keys
from miner.core.llms.pool.limits import host_settings_of, sharers
from miner.core.llms.pool.memory_meter import MemoryMeter
from miner.core.llms.pool.plan import ModelPlan, config_for, plan_models
from miner.core.llms.pool.rules import engine_rules
from miner.errors import MinerError, ModelNotFoundError

if TYPE_CHECKING:
    from miner.config.config import MinerConfig
    from miner.config.file.read import LoadedConfig
    from miner.core.models.memory.available import Memory

_NO_ENGINE = cast("Engine", None)
"""The planner asks an engine for nothing."""


@dataclass(slots=True)
class EngineFit:
    """One engine of the file, or one server elsewhere, and the models that it serves."""

    models: list[str]
    backend: str
    kind: Literal["engine", "command", "elsewhere"]
    memory: int | None = None
    """Bytes of main memory; None: unknown, or elsewhere."""
    gpu_memory: tuple[int, ...] = ()
    slots: int | None = None
    context: int | None = None
    """Tokens of a slot."""
    chosen: bool = False
    """Whether slots or context follow from the memory and not from the file."""
    problem: str | None = None
    """Why it cannot run here at all, or not beside what is pinned."""
    hint: str | None = None
    crowded: bool = False
    """Whether only other programs keep it out, as of now."""
    missing: bool = False
    """Whether there is no such model, so that nothing is known of its memory."""
    evicts: list[str] = field(default_factory=list)
    """The models that have to go when it is loaded beside those that fit together."""

    @property
    def name(self) -> str:
        """Its first model."""
        return self.models[0]

    def refuse(self, error: MinerError) -> None:
        """It cannot run, for that reason."""
        self.missing = isinstance(error, ModelNotFoundError)
        self.problem = with_keys(error.message, self.name, self.backend)
        self.hint = with_keys(error.operator_hint or error.hint or "", self.name, self.backend) or None


@dataclass(slots=True)
class TableFit:
    """The whole file."""

    engines: list[EngineFit]
    """In the order of the file."""
    memory: int | None
    """Bytes of main memory for all engines together; None: unknown."""
    gpu_memory: tuple[int, ...]
    together: list[str]
    """The models that are loaded together before any has to go: pinned ones first, then those with `preload`, then in
    the order of the file.
    """

    @property
    def fits(self) -> bool:
        """Whether each model can run."""
        return all(engine.problem is None for engine in self.engines)

    def sentences(self) -> list[str]:
        """The result in words."""
        found = []
        if self.together:
            rest = all(e.kind == "elsewhere" or e.name in self.together for e in self.engines)
            whole = "all " if rest and len(self.together) > 2 else ""
            found.append(
                f"{in_words(self.together)} fit {whole}together." if len(self.together) > 1
                else f"{self.together[0]} fits."
            )  # fmt: skip
        found += [f"{engine.name} evicts {in_words(engine.evicts)}." for engine in self.engines if engine.evicts]
        for engine in self.engines:
            if engine.kind == "command" and engine.memory is None and engine.problem is None:
                found.append(f"{engine.name}: not known before its first run, for which idle models are evicted.")
        for engine in self.engines:
            if engine.problem:
                found.append(
                    f"{engine.name} {'does not fit now' if engine.crowded else 'never fits'}: {engine.problem}"
                )
        return found


def in_words(names: Sequence[str]) -> str:
    """a, b and c."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def fit_table(loaded: LoadedConfig, settings: MinerConfig) -> TableFit:
    """Measure the memory, and plan the loads of a file's models. Blocks: not for an event loop.

    Args:
        settings: the environment's, which the file overrides.

    Raises:
        ConfigError: the file cannot be served.
    """
    plans = plan_models(loaded)
    host = host_settings_of(settings, loaded)
    meter = MemoryMeter(host)
    budget, room = meter.budget(()), meter.headroom(())
    static = host.limits(budget)
    limits, most = room.now(static), room.at_most(static)
    rules = engine_rules(plans, loaded.content)
    sharing: dict[str, list[ModelPlan]] = {}
    for plan in plans.values():
        sharing.setdefault(plan.service.identity, []).append(plan)
    count = sharers(plans, loaded.content)
    engines, members = [], list[tuple[EngineFit, Member]]()
    for shared in sharing.values():
        engine, spec = _sized(shared, loaded, settings, budget, count)
        engines.append(engine)
        if spec is not None and engine.problem is None:
            member = Member(spec, _NO_ENGINE, engine.memory, engine.gpu_memory)
            member.rules = rules.get(shared[0].service.engine or engine.name, EngineRules())
            members.append((engine, member))
    preload = {name for name, plan in plans.items() if plan.model.preload}
    members.sort(key=lambda item: (not item[1].pinned, not preload & set(item[0].models)))
    return TableFit(engines, limits.memory_budget, limits.gpu_budget, _plan(members, limits, most))


def _plan(members: Iterable[tuple[EngineFit, Member]], limits: PoolLimits, most: PoolLimits) -> list[str]:
    """Load one after the other; return those that stay loaded together.

    Args:
        most: the limits as if no other program took memory.
    """
    resident: list[tuple[EngineFit, Member]] = []
    for number, (engine, member) in enumerate(members):
        if not member.memory_known and limits.memory_budget is not None:
            continue
        plan = plan_eviction(member, [other for _, other in resident], limits, most)
        if plan.load:
            member.state, member.last_used = State.READY, float(number)
            resident.append((engine, member))
        elif plan.refusal is not None:
            engine.crowded = plan.crowded
            engine.refuse(plan.refusal)
        else:
            engine.evicts = [other.name for other, loaded in resident if loaded in plan.victims]
    return [engine.name for engine, _ in resident]


def _sized(
    shared: Sequence[ModelPlan], loaded: LoadedConfig, settings: MinerConfig, budget: Memory, count: int
) -> tuple[EngineFit, AnySpec | None]:
    """An engine and what it takes where so many share the memory; no spec: it is elsewhere, or cannot run."""
    plan = shared[0]
    service = plan.service
    kind: Literal["engine", "command", "elsewhere"] = (
        "engine" if service.runs_engines else "command" if service.table.command is not None else "elsewhere"
    )
    engine = EngineFit([each.name for each in shared], service.backend, kind)
    if kind == "elsewhere":
        return engine, None
    if kind == "command":
        spec = command_spec(service.backend, service.table, loaded.directory, None)
        engine.memory, engine.gpu_memory = CommandSource(service.table, lambda: budget).memory_of(spec)
        return engine, spec
    own = config_for(service, settings)
    models = LocalModels(own, budget=lambda: budget, sharers=lambda: count)
    engine.chosen = None in (own.llamacpp_ctx_size, own.llamacpp_parallel)
    try:
        found = asyncio.run(models.find(None))[1]
        engine.slots, engine.context = found.parallel, found.ctx_size
        need = models.need(found)
    except MinerError as error:
        engine.refuse(error)
        return engine, None
    engine.memory, engine.gpu_memory = need.ram, need.gpus
    return engine, found
