"""llama-swap's matrix: expressions of the models that may run together."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import combinations

_TOKEN = re.compile(r"\s*([&|()]|\+?[^\s&|()+]+)")
_MAX_SETS = 2000
_MAX_DEPTH = 50

Sets = list[frozenset[str]]


def allowed_sets(expressions: Mapping[str, str], variables: Mapping[str, str]) -> Sets:
    """The sets of models that the expressions allow.

    Raises:
        ValueError: an expression is not one, refers to itself, or allows too many sets.
    """
    return [each for name in expressions for each in _Parser(expressions, variables, (name,)).parse(expressions[name])]


class _Parser:
    def __init__(self, expressions: Mapping[str, str], variables: Mapping[str, str], inside: tuple[str, ...]) -> None:
        self._expressions, self._variables, self._inside = expressions, variables, inside
        self._tokens: list[str] = []
        self._depth = 0

    def parse(self, text: str) -> Sets:
        at = 0
        stripped = text.rstrip()
        while at < len(stripped):
            match = _TOKEN.match(stripped, at)
            if match is None:
                raise ValueError(f"{text!r} is no expression")
            self._tokens.append(match[1])
            at = match.end()
        found = self._any()
        if self._tokens:
            raise ValueError(f"{text!r} is no expression")
        return found

    def _any(self) -> Sets:
        found = self._all()
        while self._tokens and self._tokens[0] == "|":
            self._tokens.pop(0)
            found = found + self._all()
            if len(found) > _MAX_SETS:
                raise ValueError(f"more than {_MAX_SETS} sets")
        return found

    def _all(self) -> Sets:
        found = self._one()
        while self._tokens and self._tokens[0] == "&":
            self._tokens.pop(0)
            right = self._one()
            if len(found) * len(right) > _MAX_SETS:
                raise ValueError(f"more than {_MAX_SETS} sets")
            found = [one | other for one in found for other in right]
        return found

    def _one(self) -> Sets:
        token = self._tokens.pop(0) if self._tokens else ""
        if token == "(":
            self._depth += 1
            if self._depth > _MAX_DEPTH:
                raise ValueError("parentheses are nested too deeply")
            found = self._any()
            if not self._tokens or self._tokens.pop(0) != ")":
                raise ValueError("a parenthesis is not closed")
            self._depth -= 1
            return found
        if token in ("", ")", "&", "|", "+"):
            raise ValueError("a model is missing in an expression")
        if not token.startswith("+"):
            return [frozenset({self._variables.get(token, token)})]
        name = token[1:]
        if name not in self._expressions or name in self._inside:
            raise ValueError(f"+{name} is no other set")
        return _Parser(self._expressions, self._variables, (*self._inside, name)).parse(self._expressions[name])


def exclusions(models: Sequence[str], allowed: Sets) -> list[tuple[list[str], bool]]:
    """Groups of models of which one may be loaded, so that no two are loaded together that no set allows; with each,
    whether the groups say all that the sets do.
    """
    pairs = {
        frozenset(pair)
        for each in allowed
        for pair in combinations(sorted(each & set(models)), 2)
    }  # fmt: skip
    left = [pair for pair in combinations(models, 2) if frozenset(pair) not in pairs]
    covered: set[frozenset[str]] = set()
    found: list[list[str]] = []
    for first, second in left:
        if frozenset((first, second)) in covered:
            continue
        group = [first, second]
        for other in models:
            if other not in group and all(frozenset((other, member)) not in pairs for member in group):
                group.append(other)
        covered |= {frozenset(pair) for pair in combinations(group, 2)}
        found.append([name for name in models if name in group])
    exact = all(
        any({one, other, third} <= each for each in allowed)
        for one, other, third in combinations(models, 3)
        if {frozenset(pair) for pair in combinations((one, other, third), 2)} <= pairs
    )
    return [(group, exact) for group in found]
