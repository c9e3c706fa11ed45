"""`miner fit` for a whole `miner.toml`: the table, the result in words, and one model's settings."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from miner.cli.output.errors import note
from miner.cli.output.style import columns
from miner.cli.output.tables import aligned, print_json, printable
from miner.cli.parser import UsageError
from miner.core.llms.pool.plan import config_for, plan_models
from miner.core.llms.pool.table_fit import EngineFit, fit_table
from miner.core.models.memory.verdict import readable

if TYPE_CHECKING:
    from miner.config.config import MinerConfig
    from miner.config.file.read import LoadedConfig


def print_table(loaded: LoadedConfig, settings: MinerConfig, *, json: bool) -> int:
    """Print what the models take and which fit together; return 0 if each fits alone, else 1."""
    table = fit_table(loaded, settings)
    if json:
        print_json(
            {
                "config": str(loaded.path), "fits": table.fits, "memory": table.memory,
                "gpu_memory": list(table.gpu_memory), "together": table.together, "summary": table.sentences(),
                "engines": [{**asdict(engine), "fits": engine.problem is None} for engine in table.engines],
            }
        )  # fmt: skip
        return 0 if table.fits else 1
    cards = range(max((len(engine.gpu_memory) for engine in table.engines), default=0))
    rows = [("MODEL", "MEMORY", *(f"GPU {card}" for card in cards), "")]
    for engine in table.engines:
        gpus = [readable(engine.gpu_memory[card]) if card < len(engine.gpu_memory) else "" for card in cards]
        name = printable(", ".join(engine.models))
        rows.append((name, _size_of(engine), *gpus, _described(engine)))
    if table.memory is not None:
        most = [readable(size) for size in table.gpu_memory[: len(cards)]]
        rows.append(("all engines, at most", readable(table.memory), *most, ""))
    print(aligned(rows, right=frozenset(range(1, 2 + len(cards))), columns=columns(sys.stdout)))
    for sentence in table.sentences():
        print(printable(sentence))
    if any(engine.evicts and engine.chosen for engine in table.engines):
        note("miner: Models share the memory, but none gets less than one slot that agents can use. Set `context` and\n"
             "  `slots` to let more models fit together.")  # fmt: skip
    for engine in table.engines:
        if engine.problem and engine.hint:
            note(f"miner: {engine.name}: {engine.hint}")
    return 0 if table.fits else 1


def _size_of(engine: EngineFit) -> str:
    if engine.memory is not None:
        return readable(engine.memory)
    return "unknown" if engine.kind == "command" else ""


def _described(engine: EngineFit) -> str:
    """Its slots, or how it is served, in a few words."""
    if engine.kind != "engine":
        return "elsewhere" if engine.kind == "elsewhere" else "command"
    if engine.slots is None or engine.context is None:
        return ""
    return f"{engine.slots} slot{'s' if engine.slots > 1 else ''} of {engine.context} tokens"


def model_settings(
    name: str, loaded: LoadedConfig, settings: MinerConfig, given: Mapping[str, Any]
) -> MinerConfig | None:
    """The settings of a model of the file; None: it has none of this name.

    Args:
        given: what the command line says, which goes first.

    Raises:
        UsageError: it is not run by llama.cpp here.
    """
    plans = plan_models(loaded)
    wanted = name.lower()
    plan = plans.get(name) or next(
        (
            plan
            for plan in plans.values()
            if plan.name.lower() == wanted or any(fnmatchcase(wanted, alias.lower()) for alias in plan.model.aliases)
        ),
        None,
    )
    if plan is None:
        return None
    if not plan.service.runs_engines:
        raise UsageError(
            f"{name!r} of {loaded.path} is served by [backends.{plan.service.backend}], not by llama.cpp here.",
            hint="Without a name, the memory of the whole file is shown.",
        )
    own: MinerConfig = config_for(plan.service, settings)
    return own.model_copy(update={key: value for key, value in given.items() if key != "config"})
