"""What the tables of a file say about each other where some of it is wrong already, so that all errors come at once.

What is wrong is left out, and what is left is checked. An error that may only follow from what was left out is not
told: it would send people after what they did right.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from miner.config.file.check import check
from miner.config.file.kinds import backend_of
from miner.config.file.lines import KeyPath
from miner.config.file.problems import Problem, value_at
from miner.config.file.schema import ConfigFile
from miner.config.file.variables import Variables

_NAMED = ("backends", "models", "groups")
"""Tables of tables."""
_REFERENCES = {
    "backends": ("kind",), "models": ("backend", "aliases", "fallbacks"), "groups": ("models",),
    "defaults": ("backend", "model"),
}  # fmt: skip
"""Keys that are right or wrong whatever else stands in their table."""
_STUBS: dict[str, dict[str, Any]] = {"backends": {"kind": "llamacpp"}, "models": {}}
"""What stands for a table of which nothing is right, so that its name is known."""
_ALIASES_MEANT = "Did you mean aliases?"


def problems_of_rest(
    wrong: Iterable[Problem], replaced: Mapping[str, Any], written: Mapping[str, Any], variables: Variables, path: Path
) -> list[Problem]:
    """The problems that tables have with each other, beside those that are known.

    Args:
        wrong: what is wrong in tables and values.
        replaced: the file with its variables replaced.
        written: the file as it is written.
        path: the file.
    """
    found = list(wrong)
    if any(len(each.path) < 2 for each in found):
        return []  # any table may be missing
    rest = _Rest(found, replaced, written)
    try:
        content = ConfigFile.model_validate(rest.replaced)
    except ValidationError:
        return []
    problems, _ = check(content, rest.written, variables, path)
    return [each for each in problems if rest.is_sure(each, content)]


class _Rest:
    """A file without what is wrong in it."""

    def __init__(self, wrong: list[Problem], replaced: Mapping[str, Any], written: Mapping[str, Any]) -> None:
        self.replaced, self.written = _copy(replaced), _copy(written)
        self._broken: set[KeyPath] = set()
        """Tables that lack something, or hold what is wrong."""
        self._unnamed: set[str] = set()
        """Names of tables that are wrong themselves."""
        self._aliases_known = True
        for each in wrong:
            self._leave_out(each)

    def _leave_out(self, problem: Problem) -> None:
        of, *below = problem.path
        if of not in _NAMED:
            self._broken.add((of,))
            self._remove((of, below[0]))
            return
        table = (of, below[0])
        self._broken.add(table)
        if of == "models" and ("aliases" in below[1:2] or problem.hint == _ALIASES_MEANT):
            self._aliases_known = False
        if len(below) > 1:
            self._remove((*table, below[1]))
            return
        # The whole table: something is missing, it is no table, or its name is wrong.
        name = str(below[0])
        if isinstance(value_at(self.replaced, table), dict) and "is missing" not in problem.message:
            self._unnamed.add(name)
        self._remove(table)
        if name not in self._unnamed and of in _STUBS:
            for content in (self.replaced, self.written):
                if isinstance(tables := content.get(of), dict):
                    tables[name] = dict(_STUBS[str(of)])

    def _remove(self, path: KeyPath) -> None:
        for content in (self.replaced, self.written):
            around = value_at(content, path[:-1])
            if isinstance(around, dict):
                around.pop(path[-1], None)

    def is_sure(self, problem: Problem, content: ConfigFile) -> bool:
        """Whether a problem is there whatever has been left out."""
        of, *below = problem.path or ("",)
        meant = value_at(self.written, problem.path)
        if isinstance(meant, str) and meant in self._unnamed:
            return False
        is_reference = len(below) > (of in _NAMED) and below[of in _NAMED] in _REFERENCES.get(str(of), ())
        if is_reference:
            if of == "groups" and meant in content.models:
                return not self._is_doubtful(str(meant), content)
            may_be_alias = problem.path == ("defaults", "model") or (of == "models" and below[1] == "fallbacks")
            return meant is not None and (self._aliases_known or not may_be_alias)
        if of == "models":
            return not self._is_doubtful(str(below[0]), content)
        if of in ("groups", "limits"):
            return not any(table[0] in ("models", "backends", "defaults", of) for table in self._broken)
        return tuple(problem.path[: 2 if of in _NAMED else 1]) not in self._broken

    def _is_doubtful(self, model: str, content: ConfigFile) -> bool:
        """Whether what is known of a model may be what was left out."""
        if ("models", model) in self._broken or ("defaults",) in self._broken:
            return True
        backend = backend_of(content, content.models[model])
        return not isinstance(backend, Problem) and ("backends", backend.name) in self._broken


def _copy(value: Any) -> Any:
    """A copy of tables; values are shared."""
    return {key: _copy(each) for key, each in value.items()} if isinstance(value, dict) else value
