"""The context in force: tokens of one request, against what the model was trained for and what agents need."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from miner.cli.doctor.explain import context_line
from miner.cli.doctor.row import Row, ok, skipped
from miner.cli.doctor.targets import Target
from miner.core.models.memory.capacity import ENOUGH
from miner.errors import MinerError

if TYPE_CHECKING:
    from miner.core.llms.http_backend import HTTPBackend
    from miner.core.wire import ModelInfo

TOO_SMALL = 2048
"""Tokens below which not even the system prompt of a usual client fits."""


TRAINED_FOR_MORE = "Use a model that was trained for more."
"""What helps where the context cannot be raised."""


async def context_row(target: Target, service: HTTPBackend, model: ModelInfo) -> Row:
    """The context of a model on a server."""
    name = f"{target.name}: context"
    try:
        context = await _in_force(target, service, model)
    except MinerError as error:
        return skipped(name, error.message.rstrip("."))
    if context is None and target.kind == "ollama":
        return Row(
            name,
            "note",
            "Ollama decides it when it loads the model, by its memory: often 4096 tokens",
            context_line(target),
            f"The model was trained for {model.trained_context_length or 'an unknown number of'} "
            "tokens. A longer prompt is refused here, and never cut.",
            {"trained": model.trained_context_length},
        )
    if context is None:
        return skipped(name, "the server does not say it")
    return judged(target, context, model.trained_context_length, generates=generates(model.capabilities))


async def _in_force(target: Target, service: HTTPBackend, model: ModelInfo) -> int | None:
    if target.kind != "ollama":
        return await service._context_of(model)
    for running in await service.running_models():
        if running.info.id == model.id or model.id in running.info.aliases:
            return running.info.context_length
    return await service._context_of(model) if target.config.ollama_num_ctx else None


def generates(capabilities: Collection[str] | None) -> bool:
    """Whether a model is one that generates, by its capabilities: prompts of agents go to no other."""
    return capabilities is None or ("chat" in capabilities and "rerank" not in capabilities)


def judged(
    target: Target, context: int, trained: int | None, slots: int | None = None, why: str = "", *, generates: bool
) -> Row:
    """The row for a known context."""
    name, line = f"{target.name}: context", context_line(target)
    seen = {"context": context, "trained": trained, "slots": slots}
    of_slots = f"{slots} slots of {context} tokens" if slots and slots > 1 else f"{context} tokens a request"
    words = of_slots + (f", the model was trained for {trained}" if trained and trained != context else "") + why
    if trained and context > trained:
        return Row(name, "note", words, hint="What is beyond the training is often nonsense.", seen=seen)
    if not generates:
        return ok(name, words, **seen)
    limited = trained is not None and trained <= context
    if context < TOO_SMALL:
        hint = "Prompts that are longer are refused: `The prompt has N tokens, the context M`."
        return Row(name, "note" if limited else "problem", words, None if limited else line, hint, seen)
    if context < ENOUGH:
        hint = f"Agents need about {ENOUGH}." + (f" {TRAINED_FOR_MORE}" if limited else "")
        return Row(name, "note", words, None if limited else line, hint, seen)
    return ok(name, words, **seen)
