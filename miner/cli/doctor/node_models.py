"""The models of a node at --url, and a probe of one."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from miner.cli.doctor.explain import doctor_line, few, row_of
from miner.cli.doctor.facts import Facts
from miner.cli.doctor.node_requests import SECONDS, Node, object_of
from miner.cli.doctor.probe import probes
from miner.cli.doctor.probed_model import choose
from miner.cli.doctor.row import Row, ok, skipped
from miner.cli.doctor.targets import Target
from miner.config.config import MinerConfig
from miner.core.llms.openai.models import once_each
from miner.core.wire import ModelInfo
from miner.errors import MinerError, ModelNotFoundError

_NOT_LOADED = ("unloaded", "failed", "remote", "unavailable")
"""States of models that hold no memory of the node."""


async def models_of(node: Node, facts: Facts, *, is_node: bool) -> AsyncGenerator[Row, None]:
    """The models that clients see, and a probe of one: of the one that was asked for, else of one whose probe unloads
    no other.
    """
    from miner.cli.url_service import URLService

    wanted = facts.options.model
    config = MinerConfig(
        openai_api_base=f"{node.url}/v1",
        openai_api_key=node.key,
        default_model=wanted,
        max_retries=0,
        llm_fallbacks="",
        openai_timeout=facts.options.seconds,
    )
    async with URLService(config) as service:
        service.name = "node"
        target = Target("node", "openai", config, by_url=True, is_node=is_node)
        names: list[str] = []
        model: ModelInfo | None
        try:
            models = once_each(await service._served_models(total=SECONDS))
            names = [model.id for model in models]
            if wanted is not None or not models:
                model = await service.resolve_model(wanted)
                yield ok("node: model", f"{model.id if model else wanted} is there", available=names[:50])
            else:
                choice = choose(models, await _running(node))
                model = choice.model
                yield ok("node: model", _listed(names, model, choice.why), available=names[:50])
        except ModelNotFoundError as error:
            near = row_of("node: model", error, target, available=names[:50])
            summary = f"{near.summary}; it has {few(names)}" if names else near.summary
            fix = doctor_line(target, f"--model {names[0]}") if names else f"miner list --url {node.upstream.shown_url}"
            yield replace(near, summary=summary, fix=fix)
            return
        except MinerError as error:
            yield row_of("node: model", error, target)
            return
        if model is None and wanted is None and facts.options.probe:
            yield skipped(
                "node: probe",
                f"nothing was probed: {choice.why}",
                fix=doctor_line(target, "--model NAME"),
            )
            return
        target = replace(target, models=(model.id,) if model is not None else ())
        async with aclosing(probes("node", service, target, facts, model)) as rows:
            async for row in rows:
                yield row


def _listed(names: list[str], model: ModelInfo | None, why: str) -> str:
    if len(names) == 1:
        return f"{names[0]} is there"
    return f"{len(names)} are served" + (f"; {model.id} is probed: it is {why}" if model is not None else "")


async def _running(node: Node) -> frozenset[str] | None:
    """The names of the models in memory, those that are being loaded included where the key may see them; None: the
    server does not say it.
    """
    try:
        listed = object_of(await node.get("/api/ps")).get("models")
        states = object_of(await node.get("/admin/models")).get("models")
    except MinerError:
        return None
    if not isinstance(listed, list):
        return None
    found = {each.get("name") for each in listed if isinstance(each, dict)}
    for each in states if isinstance(states, list) else ():
        if isinstance(each, dict) and each.get("state") not in _NOT_LOADED:
            found.add(each.get("name"))
    return frozenset(name for name in found if isinstance(name, str))
