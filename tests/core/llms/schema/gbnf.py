"""Texts out of a grammar in llama.cpp's form, at random: what the engine might write under it."""

from __future__ import annotations

import random
import re
from typing import Any

__all__ = ["Grammar"]

_TOKEN = re.compile(
    r'\s*(?:(?P<literal>"(?:[^"\\]|\\.)*")|(?P<class>\[(?:[^\]\\]|\\.)*\])|(?P<name>[a-zA-Z][a-zA-Z0-9-]*)'
    r"|(?P<count>\{\d+(?:,\d*)?\})|(?P<mark>[()|*+?.]))"
)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


class Grammar:
    """A grammar that was read; raises ValueError where llama.cpp would refuse it."""

    def __init__(self, text: str) -> None:
        self.rules: dict[str, Any] = {}
        for line in text.splitlines():
            if line.strip():
                name, mark, rule = line.partition("::=")
                if not mark:
                    raise ValueError(f"no rule: {line!r}")
                tokens = self._tokens(rule)
                self.rules[name.strip()] = self._alternatives(tokens)
                if tokens:
                    raise ValueError(f"left over in {name}: {tokens}")
        self.longest = 3
        """Repetitions without a bound come at most so many times more than they must."""

    def _tokens(self, text: str) -> list[tuple[str, str]]:
        tokens, at = [], 0
        text = text.rstrip()
        while at < len(text):
            found = _TOKEN.match(text, at)
            if found is None:
                raise ValueError(f"cannot read {text[at : at + 30]!r}")
            tokens.append((found.lastgroup or "", found.group(found.lastgroup or "")))
            at = found.end()
        return tokens

    def _alternatives(self, tokens: list[tuple[str, str]]) -> Any:
        branches: list[list[Any]] = [[]]
        while tokens and tokens[0] != ("mark", ")"):
            kind, value = tokens.pop(0)
            if (kind, value) == ("mark", "|"):
                branches.append([])
                continue
            if (kind, value) == ("mark", "("):
                item = self._alternatives(tokens)
                if not tokens or tokens.pop(0) != ("mark", ")"):
                    raise ValueError("a group without end")
            elif kind == "count" or value in ("*", "+", "?"):
                if not branches[-1]:
                    raise ValueError("nothing to repeat")
                low, high = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(value, (0, None))
                if kind == "count":
                    first, comma, second = value[1:-1].partition(",")
                    low, high = int(first), int(second) if second else None if comma else int(first)
                    if low > 2000 or (high is not None and high > 2000):
                        raise ValueError("too many repetitions")
                branches[-1][-1] = ("repeat", branches[-1][-1], low, high)
                continue
            elif kind == "class":
                item = ("class", *_read_class(value))
            elif kind == "literal":
                item = ("text", _unescaped(value[1:-1]))
            elif kind == "name":
                item = ("rule", value)
            else:
                raise ValueError(f"unknown: {value}")
            branches[-1].append(item)
        return ("or", branches)

    def sample(self, chance: random.Random, rule: str = "root") -> str:
        """One text."""
        return self._make(self.rules[rule], chance, 0)

    def _make(self, node: Any, chance: random.Random, depth: int) -> str:
        if depth > 400:
            raise RecursionError("the grammar goes too deep for this try")
        match node:
            case ("or", branches):
                return "".join(self._make(item, chance, depth + 1) for item in self._branch(branches, chance, depth))
            case ("repeat", item, low, high):
                most = low + (self.longest if depth < 60 else 0)
                count = chance.randint(low, most if high is None else min(high, most))
                return "".join(self._make(item, chance, depth + 1) for _ in range(count))
            case ("text", text):
                return str(text)
            case ("rule", name):
                return self._make(self.rules[name], chance, depth + 1)
            case ("class", negated, ranges):
                if negated:
                    while True:
                        code = chance.choice([chance.randint(0x20, 0x7E), chance.randint(0xA1, 0x24F), 0x1F600])
                        if not any(low <= code <= high for low, high in ranges):
                            return chr(code)
                low, high = chance.choice(ranges)
                return chr(chance.choice([low, high, chance.randint(low, high)]))
        raise ValueError(node)

    def _branch(self, branches: list[Any], chance: random.Random, depth: int) -> Any:
        # Deep down, take the shortest way out.
        if depth > 60:
            return min(branches, key=lambda branch: sum(_weight(item) for item in branch))
        return chance.choice(branches)


def _weight(item: Any) -> int:
    match item:
        case ("rule", name):
            return 40 if name in ("value", "object", "array") or name.startswith(("def-", "ref-")) else 4
        case ("or", branches):
            return min((sum(_weight(one) for one in branch) for branch in branches), default=0)
        case ("repeat", inner, low, _):
            return int(low) * _weight(inner)
    return 1


def _unescaped(text: str) -> str:
    return re.sub(r"\\(x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.)", _escape, text)


def _escape(found: re.Match[str]) -> str:
    mark = found.group(1)
    return chr(int(mark[1:], 16)) if len(mark) > 1 else _ESCAPES.get(mark, mark)


def _read_class(text: str) -> tuple[bool, list[tuple[int, int]]]:
    inner = text[1:-1]
    negated = inner.startswith("^")
    chars = re.findall(r"\\(?:x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.)|.", inner[negated:])
    codes = [(ord(_unescaped(char)), char) for char in chars]
    ranges, at = [], 0
    while at < len(codes):
        if at + 2 < len(codes) and codes[at + 1][1] == "-":
            ranges.append((codes[at][0], codes[at + 2][0]))
            at += 3
        else:
            ranges.append((codes[at][0], codes[at][0]))
            at += 1
    return negated, ranges
