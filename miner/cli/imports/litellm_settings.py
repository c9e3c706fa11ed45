"""LiteLLM's settings beside `model_list`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from miner.cli.imports.draft import Draft, Section

_CACHED = "replies are not cached"
_LOGGED = "set MINER_LOG_LEVEL, or OTEL_EXPORTER_OTLP_ENDPOINT for traces"
_DATABASE = "there is no database: keys are in a file (`miner keys`)"
_SPREAD = "requests are not spread over deployments"
_KEYS = "make keys with `miner keys new NAME`; its file stores only hashes"
_LOST = {
    "cache": _CACHED, "cache_params": _CACHED, "success_callback": _LOGGED, "failure_callback": _LOGGED,
    "callbacks": _LOGGED, "service_callbacks": _LOGGED, "set_verbose": _LOGGED, "json_logs": _LOGGED,
    "context_window_fallbacks": "a prompt that is too long is refused",
    "content_policy_fallbacks": "contents are not judged", "default_team_settings": "there are no teams",
    "max_budget": "limits belong to keys: `miner keys new`",
    "budget_duration": "limits belong to keys: `miner keys new`",
    "telemetry": "nothing is sent anywhere", "routing_strategy": _SPREAD, "routing_strategy_args": _SPREAD,
    "redis_host": _SPREAD, "redis_port": _SPREAD, "redis_password": _SPREAD, "redis_url": _SPREAD,
    "allowed_fails": "a backend that fails is left alone by itself",
    "cooldown_time": "a backend that fails is left alone by itself",
    "stream_timeout": "timeout counts for streams too", "enable_pre_call_checks": "prompts are always counted before",
    "database_url": _DATABASE, "store_model_in_db": _DATABASE, "database_connection_pool_limit": _DATABASE,
    "alerting": "see /metrics", "alerting_threshold": "see /metrics",
    "background_health_checks": "/readyz asks the backends", "health_check_interval": "/readyz asks the backends",
    "pass_through_endpoints": "only the APIs of models are served",
    "max_parallel_requests": "concurrency is a limit of a backend",
    "global_max_parallel_requests": "[limits] max_queue and the slots of engines",
    "custom_auth": _KEYS,
}  # fmt: skip
_TOP_LOST = {
    "environment_variables": "set them in the environment", "include": "import each file, and put them together",
    "guardrails": "contents are not judged", "mcp_servers": "no tools run in the gateway",
    "callback_settings": _LOGGED, "finetune_settings": "models are not trained",
    "files_settings": "files are kept here",
    "vector_store_registry": "there are no vector stores", "search_tools": "no tools run in the gateway",
}  # fmt: skip


def settings(draft: Draft, content: dict[str, Any], groups: Mapping[str, list[Section]]) -> None:
    """Carry over what is there beside the models.

    Args:
        content: the file without `model_list`.
        groups: `model_name` -> its deployments.
    """
    tables: dict[str, dict[str, Any]] = {}
    for name in ("litellm_settings", "router_settings", "general_settings"):
        value = content.pop(name, None)
        tables[name] = dict(value) if isinstance(value, dict) else {}
    defaults = draft.section("defaults")
    library, router, general = tables["litellm_settings"], tables["router_settings"], tables["general_settings"]
    if (drop := library.pop("drop_params", None)) is not None:
        defaults.set("unsupported", "skip" if drop else "refuse", "drop_params")
    _timeout(defaults, library, router)
    _retries(draft, library, router)
    for where, table in (("router_settings", router), ("litellm_settings", library)):
        _fallbacks(draft, groups, table.pop("fallbacks", None), f"{where}.fallbacks")
    for where, table in (("router_settings", router), ("litellm_settings", library)):
        _default_fallbacks(draft, groups, table.pop("default_fallbacks", None), f"{where}.default_fallbacks")
    aliases = router.pop("model_group_alias", None)
    _aliases(draft, groups, aliases if aliases is not None else library.pop("model_group_alias", None))
    if (model := general.pop("completion_model", None)) is not None:
        section = _first(groups, model)
        if section is None:
            draft.top.lose("general_settings", "completion_model", model, "no model has that name")
        else:
            defaults.set("model", section.path[1], "completion_model")
    if general.pop("master_key", None) is not None:
        draft.top.lose(
            "general_settings", "master_key", None, "`miner keys new NAME --admin` makes one for administrators"
        )
    for inside, rest in tables.items():
        for key, value in rest.items():
            draft.top.lose(inside, key, value, _LOST.get(key, "not known here"))
    for key, value in content.items():
        draft.top.lose("", key, value, _TOP_LOST.get(key, "not known here"))


def _first(groups: Mapping[str, list[Section]], name: Any) -> Section | None:
    """The table that serves a `model_name`."""
    sections = groups.get(str(name))
    return sections[0] if sections else None


def _timeout(defaults: Section, library: dict[str, Any], router: dict[str, Any]) -> None:
    for where, table, key in (
        ("router_settings", router, "timeout"), ("litellm_settings", library, "request_timeout"),
    ):  # fmt: skip
        value = table.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            if defaults.get("timeout") is None:
                defaults.set("timeout", table.pop(key), f"{where}.{key}")
            else:
                defaults.lose(where, key, table.pop(key), "that of router_settings counts")


def _retries(draft: Draft, library: dict[str, Any], router: dict[str, Any]) -> None:
    library_retries = library.pop("num_retries", None)
    retries = router.pop("num_retries", library_retries)
    if retries is None:
        return
    if not isinstance(retries, int) or isinstance(retries, bool):
        draft.top.lose("router_settings", "num_retries", retries, "a number is needed here")
        return
    for backend in draft.sections("backends"):
        if backend.get("max_retries") is None:
            backend.set("max_retries", max(0, min(10, retries)))
    if retries > 10:
        draft.top.change("num_retries", "at most 10 here")


def _fallbacks(draft: Draft, groups: Mapping[str, list[Section]], value: Any, where: str) -> None:
    """`[{"gpt-4": ["gpt-3.5-turbo"]}]`"""
    for entry in value if isinstance(value, list) else []:
        for name, targets in entry.items() if isinstance(entry, dict) else []:
            section = None if name == "*" else _first(groups, name)
            if section is None and name != "*":
                draft.top.lose(where, name, None, "no model has that name")
                continue
            sections = [section] if section is not None else [each[0] for each in groups.values()]
            for each in sections:
                _fall_back(each, groups, targets, f"{where}.{name}")


def _default_fallbacks(draft: Draft, groups: Mapping[str, list[Section]], value: Any, where: str) -> None:
    for sections in groups.values() if value else []:
        if not sections[0].get("fallbacks"):
            _fall_back(sections[0], groups, value, where)


def _fall_back(section: Section, groups: Mapping[str, list[Section]], targets: Any, where: str) -> None:
    names = []
    for target in targets if isinstance(targets, list) else [targets]:
        found = None if isinstance(target, dict) else _first(groups, target)
        if found is None:
            section.lose(where, str(target.get("model", "?")) if isinstance(target, dict) else str(target), None,
                         "no model has that name, or it is more than a name")  # fmt: skip
        elif found is not section:
            names.append(found.path[1])
    section.add("fallbacks", names)


def _aliases(draft: Draft, groups: Mapping[str, list[Section]], value: Any) -> None:
    """`{"alias": "model"}`, or `{"alias": {"model": ..., "hidden": true}}`"""
    for alias, target in value.items() if isinstance(value, dict) else []:
        hidden = target.get("hidden") if isinstance(target, dict) else None
        section = _first(groups, target.get("model") if isinstance(target, dict) else target)
        where = "router_settings.model_group_alias"
        if section is None:
            draft.top.lose(where, alias, None, "no model has the name that it stands for")
            continue
        section.add("aliases", [alias])
        if hidden is not None:
            section.lose(f"{where}.{alias}", "hidden", hidden, "lists of models show no aliases")
