"""From the models and groups of `miner.toml` to the rules of the engines that serve them."""

from __future__ import annotations

from collections.abc import Mapping

from miner.config.file.schema import ConfigFile
from miner.core.engine.rules import EngineRules, GroupRule, combined
from miner.core.llms.pool.plan import ModelPlan


def engine_rules(models: Mapping[str, ModelPlan], content: ConfigFile) -> dict[str, EngineRules]:
    """The rules of each engine, by its alias; several models may share one."""
    sharing: dict[str, list[str]] = {}
    for name, plan in models.items():
        sharing.setdefault(plan.service.identity, []).append(name)
    rules = {name: _rules_of(name, plan, content) for name, plan in models.items()}
    # An engine is named after the first of its models, and that of a command after its backend.
    return {
        models[names[0]].service.engine or names[0]: combined(rules[name] for name in names)
        for names in sharing.values()
    }


def _rules_of(name: str, plan: ModelPlan, content: ConfigFile) -> EngineRules:
    model = plan.model
    return EngineRules(
        priority=model.priority,
        pinned=model.pin,
        keep_alive=model.keep_alive,
        groups=tuple(
            GroupRule(title, group.max_loaded, group.exclusive)
            for title, group in content.groups.items()
            if name in group.models
        ),
    )
