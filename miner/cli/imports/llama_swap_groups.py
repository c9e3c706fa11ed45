"""Which of llama-swap's models may run at the same time, as `[groups.NAME]`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from miner.cli.imports.draft import Draft, Section
from miner.cli.imports.llama_swap_matrix import allowed_sets, exclusions
from miner.cli.imports.llama_swap_values import table_of
from miner.errors import ConfigError

_REST = "(default)"
"""llama-swap's name for the group of models that are in none."""
_GROUP_KEYS = ("swap", "exclusive", "persistent", "members")


def groups(
    draft: Draft, models: Mapping[str, Section], legacy: Any, legacy_matrix: Any, routing: dict[str, Any]
) -> None:
    """Write the groups.

    Args:
        models: the local models: the other file's names -> their tables.
        legacy: the key `groups` of the whole file; `legacy_matrix`: `matrix`.
        routing: the key `routing`, without `scheduler`.
    """
    router = table_of(routing.pop("router", None), "routing.router")
    settings = table_of(router.pop("settings", None), "routing.router.settings")
    use = router.pop("use", "matrix" if legacy_matrix else "group")
    found, matrix = settings.pop("groups", None), settings.pop("matrix", None)
    if use == "matrix":
        matrix = legacy_matrix or matrix
        if found:
            draft.top.lose("routing.router.settings", "groups", found, "the router is the matrix")
        where = "matrix" if legacy_matrix else "routing.router.settings.matrix"
        _matrix(draft, models, table_of(matrix, where), where)
    else:
        if matrix:
            draft.top.lose("routing.router.settings", "matrix", matrix, "the router is that of groups")
        where = "groups" if legacy else "routing.router.settings.groups"
        _groups(draft, models, table_of(legacy or found, where), where)
    for inside, rest in (("routing", routing), ("routing.router", router), ("routing.router.settings", settings)):
        for key, value in rest.items():
            draft.top.lose(inside, key, value, "not known here")


def _groups(draft: Draft, models: Mapping[str, Section], found: dict[str, Any], where: str) -> None:
    """Groups; models that are in none are one, of which one model runs, alone."""
    read: dict[str, dict[str, Any]] = {}
    grouped: set[str] = set()
    for name, group in found.items():
        if not isinstance(group, dict) or not isinstance(group.get("members"), list):
            raise ConfigError(f"{where}.{name}.members: llama-swap needs a list of models here.")
        members = [str(member) for member in group["members"]]
        unknown = [member for member in members if member not in models]
        read[name] = {"swap": True, "exclusive": True, "persistent": False} | group | {
            "members": [member for member in members if member in models], "unknown": unknown,
        }  # fmt: skip
        grouped.update(members)
    rest = [name for name in models if name not in grouped]
    if rest:
        read[_REST] = {"swap": True, "exclusive": True, "persistent": False, "members": rest, "unknown": []}
    stay = any(group["persistent"] is True for group in read.values())
    single = [group for group in read.values() if group["members"] and _excludes(group) and group["swap"]]
    for name, group in read.items():
        section = _group(draft, models, name, group, f"{where}.{name}")
        if section is None or not _excludes(group) or len(read) == 1:
            if section is not None and section.get("max_loaded") is None:
                draft.drop(section, f"{where}.{name}: its models may be loaded together, which needs no group here")
            continue
        if not stay:
            section.set("exclusive", True)
            if not all(_excludes(other) for other in read.values()):
                section.change(
                    f"{where}.{name}.exclusive", "other models do not load beside it here, until it is unloaded"
                )
        elif not (group["swap"] and len(single) > 1):
            why = "a persistent group stays loaded beside it, which exclusive forbids here"
            section.lose(f"{where}.{name}", "exclusive", True, why)
            if section.get("max_loaded") is None:
                draft.drop(section, f"{where}.{name}: its models may be loaded together, which needs no group here")
    if stay and len(single) > 1:
        section = draft.section("groups", draft.name_for("groups", "one-at-a-time"))
        section.above.append("Groups of llama-swap that unload each other, and of which one model runs at a time.")
        together = dict.fromkeys(member for group in single for member in group["members"])
        section.set("models", [models[member].path[1] for member in together])
        section.set("max_loaded", 1)


def _excludes(group: dict[str, Any]) -> bool:
    return bool(group["exclusive"]) and not group["persistent"]


def _group(draft: Draft, models: Mapping[str, Section], name: str, group: dict[str, Any], where: str) -> Section | None:
    members = group["members"]
    if not members:
        draft.top.lose(where.rpartition(".")[0], name, None, "it has no models of this file")
        return None
    section = draft.section("groups", draft.name_for("groups", "llama-swap" if name == _REST else name))
    section.set("models", list(dict.fromkeys(models[member].path[1] for member in members)))
    if name == _REST:
        section.above.append(
            "Models that are in no group: llama-swap runs one at a time. Without this table: as many as fit."
        )
    if group["swap"]:
        section.set("max_loaded", 1)
    if group["persistent"]:
        swapped = group["swap"] and len(members) > 1
        if swapped:
            section.lose(where, "persistent", True, "its models unload each other, so none can be pinned")
        for member in [] if swapped else members:
            if (models[member].get("keep_alive") or -1) > 0:
                why = "a pinned model is not unloaded when it is idle either, but this one has a ttl"
                models[member].lose(where, "persistent", True, why)
            else:
                models[member].set("pin", True, "persistent")
    for member in group["unknown"]:
        section.lose(f"{where}.members", member, None, "no model has that name")
    for key, value in group.items():
        if key not in (*_GROUP_KEYS, "unknown"):
            section.lose(where, key, value, "not known here")
    return section


def _matrix(draft: Draft, models: Mapping[str, Section], matrix: dict[str, Any], where: str) -> None:
    """The matrix, as groups of models that exclude each other."""
    variables = {str(key): str(value) for key, value in table_of(matrix.pop("vars", None), where).items()}
    sets = table_of(matrix.pop("sets", None), where)
    costs = matrix.pop("evict_costs", None)
    try:
        allowed = allowed_sets({str(key): str(value) for key, value in sets.items()}, variables)
    except ValueError as error:
        draft.top.lose(where, "sets", sets, str(error))
        allowed = None
    if allowed is not None:
        for number, (together, exact) in enumerate(exclusions(list(models), allowed), 1):
            section = draft.section("groups", draft.name_for("groups", f"matrix-{number}"))
            if number == 1:
                section.above.append(f"{where}.sets: models that are in no set together exclude each other.")
            section.set("models", [models[name].path[1] for name in together])
            section.set("max_loaded", 1)
            if not exact:
                section.change(
                    f"{where}.sets", "more models than in any set may be loaded together, where each two may"
                )
    if costs:
        draft.top.lose(where, "evict_costs", costs, "the least recently used model is evicted; see priority and pin")
    for key, value in matrix.items():
        draft.top.lose(where, key, value, "not known here")
