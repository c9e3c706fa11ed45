"""The names that clients can use: of models, their aliases, and patterns."""

from __future__ import annotations

import re
from collections.abc import Iterator

from miner.config.file.lines import KeyPath
from miner.config.file.problems import Problem
from miner.config.file.schema import ConfigFile


def exact_names(content: ConfigFile) -> dict[str, str]:
    """Each name without a wildcard, and the model that it means."""
    known = {name: name for name in content.models}
    for name, model in content.models.items():
        for alias in model.aliases:
            if "*" not in alias:
                known.setdefault(alias, name)
    return known


def listed_models(content: ConfigFile) -> str:
    """What there is, for an error about a name that is not."""
    return f"Models: {', '.join(content.models) or 'none'}."


def meaning(content: ConfigFile, wanted: str) -> str | None:
    """The model that a client's name means: exactly, in other letters, or by a pattern."""
    known = exact_names(content)
    if wanted in known:
        return known[wanted]
    for name, model in known.items():
        if name.casefold() == wanted.casefold():
            return model
    for name, entry in content.models.items():
        if any("*" in alias and pattern_of(alias).fullmatch(wanted) for alias in entry.aliases):
            return name
    return None


def pattern_of(alias: str) -> re.Pattern[str]:
    """What an alias with wildcards matches, in any case."""
    return re.compile(".*".join(map(re.escape, re.split(r"\*+", alias))), re.IGNORECASE | re.DOTALL)


def check_names(content: ConfigFile) -> Iterator[Problem]:
    """Names that mean two models, and those that never mean one."""
    taken: dict[str, tuple[str, str]] = {}
    for name in content.models:
        other = taken.setdefault(name.casefold(), (name, name))[0]
        if other != name:
            yield Problem(f"differs from [models.{other}] only in its letters' case", ("models", name))
    for name, model in content.models.items():
        seen: set[str] = set()
        for number, alias in enumerate(model.aliases):
            where: KeyPath = ("models", name, "aliases", number)
            if alias != alias.strip() or not alias.isprintable():
                yield Problem("no name of a model begins or ends with spaces, or has control characters", where)
                continue
            owner, first = taken.setdefault(alias.casefold(), (name, alias))
            if owner == name and first is not alias and alias.casefold() == name.casefold():
                yield Problem("is the model's own name", where)
            elif owner != name and owner.casefold() == alias.casefold():
                yield Problem(f"is the name of [models.{owner}]", where)
            elif owner != name:
                yield Problem(f"is an alias of [models.{owner}] too", where)
            elif alias in seen:
                yield Problem("stands there twice", where)
            seen.add(alias)
