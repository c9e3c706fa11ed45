"""A model that llama.cpp runs here: its file, slots and context, whether it fits, and a probe that loads it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

from miner.cli.doctor.context import judged
from miner.cli.doctor.explain import few, model_line, row_of
from miner.cli.doctor.facts import Facts
from miner.cli.doctor.listeners import our_node
from miner.cli.doctor.probe import probes
from miner.cli.doctor.row import Row, ok, skipped
from miner.cli.doctor.targets import Target
from miner.errors import ConfigError, MinerError, ModelNotFoundError


async def look(target: Target, facts: Facts) -> AsyncGenerator[Row, None]:
    """All rows. What depends on a step that fails is skipped."""
    from miner.cli.configuration.machine_check import without_model_path
    from miner.cli.local_store import capacity_on, verdict_on
    from miner.core.llms.llamacpp.models import find_model, models_directory, pooling_of
    from miner.core.models.memory.available import available_memory
    from miner.core.models.memory.verdict import readable

    name, settings = target.name, target.config
    directory = str(models_directory(settings))
    wanted = None if target.table else (facts.options.model or settings.default_model)
    try:
        model = find_model(wanted, settings)
    except ModelNotFoundError as error:
        available = error.available or _others(Path(directory))
        if error.model is None and len(error.available) > 1:  # as with a server that has several: it can be served
            words = f"there are {len(available)} models and no default: each request must name one of {few(available)}"
            line = f"export DEFAULT_MODEL={available[0]}"
            yield Row(
                f"{name}: model", "note", words, line, seen={"models_dir": directory, "available": available[:50]}
            )
            yield skipped(f"{name}: context, memory, probe", "--model NAME names the model to look at")
            return
        fix = model_line(error.model or wanted or settings.model_path or "NAME", available, target)
        yield Row(
            f"{name}: model",
            "problem",
            (without_model_path(error.message) if target.table else error.message).rstrip(".")[:400],
            fix,
            target.in_its_words(error.hints_for_people or "") or None,
            {"wanted": wanted, "models_dir": directory, "available": available[:50]},
        )
        yield skipped(f"{name}: context, memory, probe", "there has to be a model first")
        return
    except MinerError as error:
        yield row_of(f"{name}: model", error, target, models_dir=directory)
        yield skipped(f"{name}: context, memory, probe", "there has to be a model first")
        return
    seen: dict[str, Any] = {"name": model.alias, "file": str(model.files.path), "size": model.files.size}
    kind = model.header.quantization or model.header.architecture
    yield ok(f"{name}: model", f"{model.alias}, {readable(model.files.size)}{f', {kind}' if kind else ''}", **seen)
    memory = available_memory()
    try:
        verdict, capacity = verdict_on(model, settings, memory), capacity_on(model, settings, memory)
    except MinerError as error:
        yield row_of(f"{name}: memory", error, target)
        return
    trained = model.header.context_length
    why = f" ({capacity.why})" if "llamacpp_ctx_size" not in settings.model_fields_set else ""
    embeds = pooling_of(model.header, settings) is not None
    yield judged(target, verdict.load.ctx_size, trained, verdict.load.parallel, why, generates=not embeds)
    sizes = {"needed": verdict.placement.ram, "available": memory.available, "fits": verdict.fits}
    if verdict.fits is False:
        yield Row(
            f"{name}: memory", "problem", verdict.reason.rstrip("."), f"miner fit {model.alias}", verdict.hint, sizes
        )
        yield skipped(f"{name}: probe", "the model has to fit into memory first")
        return
    free = f" of {readable(memory.available)} that are free" if memory.available is not None else ""
    yield ok(f"{name}: memory", f"needs {readable(verdict.placement.ram)}{free}", **sizes)
    if not facts.options.probe:
        yield skipped(f"{name}: probe", "--no-probe: it would load the model")
        return
    node = our_node(facts)
    if node is not None:
        yield skipped(
            f"{name}: probe",
            f"a node runs at {node} and has the models: probe it there",
            fix=f"miner doctor --url {node}",
        )
        return
    try:
        service = target.service()
    except ConfigError as error:
        yield row_of(f"{name}: probe", error, target)
        return
    async with service, aclosing(probes(name, service, target, facts, None, loads=True)) as rows:
        async for row in rows:
            yield row


def _others(directory: Path) -> list[str]:
    """The names of the models that are there."""
    from miner.core.models.resolve import list_local

    try:
        return [found.alias for found in list_local(models_dir=directory)]
    except (OSError, MinerError):
        return []
