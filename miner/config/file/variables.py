"""Variables: `${NAME}` in texts of the file. `$${` stands for `${` itself."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from miner.config.file.lines import MAX_DEPTH, KeyPath
from miner.config.file.problems import MOST, Problem, nearest
from miner.config.sources import dotenv_variables
from miner.errors import ConfigError

LATE_VARIABLES = frozenset({"PORT"})
"""Variables that get their value when a command is started."""
_LATE_PLACES = frozenset({"command", "env", "ready"})
"""Keys of a backend that may have them."""
_REFERENCE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)\}|\$\{[^}]*\}?")
_MOST_TEXT = 16 << 20
"""Characters of all values that stand in the place of variables: few lines can multiply each other."""
_UNSET_HINT = "Set it in the environment, in .env, or in [variables]."


class Variables:
    """The values of one file's variables: its own table `[variables]`, else the environment."""

    def __init__(self, content: Mapping[str, Any], environment: Mapping[str, str] | None) -> None:
        """Args:
        content: the file's.
        environment: None for this process's and `.env`; empty values count as unset.
        """
        own = content.get("variables")
        self.own = (
            {name: value for name, value in own.items() if isinstance(value, str)} if isinstance(own, dict) else {}
        )
        self._environment = environment
        self._outside: dict[str, str] | None = None
        self._done: dict[tuple[str, bool], str] = {}
        self._left = _MOST_TEXT
        self._open: list[str] = []

    def replaced(self, value: Any, path: KeyPath, problems: list[Problem]) -> Any:
        """The value with its variables replaced; what is wrong is added to `problems`."""
        if isinstance(value, dict):
            named = [key for key in value if "${" in key and path != ("variables",)]
            problems += [Problem("variables are not replaced in names and keys", (*path, key)) for key in named]
            return {key: self.replaced(each, (*path, key), problems) for key, each in value.items()}
        if isinstance(value, list):
            return [self.replaced(each, (*path, number), problems) for number, each in enumerate(value)]
        if not isinstance(value, str) or "${" not in value or len(problems) > 2 * MOST:
            return value
        try:
            return self._text(value, late=_may_be_late(path))
        except _VariableError as error:
            problems.append(Problem(error.message, path, hint=error.hint))
            return value

    def from_environment(self, value: str) -> bool:
        """Whether the text is nothing but variables whose values come from the environment."""
        names = {match[1] for match in _REFERENCE.finditer(value)}
        return (
            bool(names) and None not in names and not self.own.keys() & names and not _REFERENCE.sub("", value).strip()
        )

    def sources(self, value: str) -> list[str]:
        """The names of the variables in a text."""
        return [match[1] for match in _REFERENCE.finditer(value) if match[1]]

    def _text(self, value: str, *, late: bool) -> str:
        def replace(match: re.Match[str]) -> str:
            name = match[1]
            if match[0] == "$${":
                return "${"
            if name is None:
                raise _VariableError(
                    f"{match[0]} is not a variable", "Variables are written ${NAME}; $${ stands for ${ itself."
                )
            if name in LATE_VARIABLES and name not in self.own:
                if not late:
                    raise _VariableError(
                        f"${{{name}}} has no value here", "It is for command, env and ready of a backend."
                    )
                return match[0]
            text = self._value(name, late=late)
            self._left -= len(text)
            if self._left < 0:
                raise _VariableError(
                    f"the values of all variables are longer than {_MOST_TEXT >> 20} MiB together", None
                )
            return text

        return _REFERENCE.sub(replace, value)

    def _value(self, name: str, *, late: bool) -> str:
        if name in self.own:
            if (name, late) in self._done:
                return self._done[name, late]
            if len(self._open) >= MAX_DEPTH:
                raise _VariableError(f"more than {MAX_DEPTH} variables stand for each other", None)
            if name in self._open:
                circle = " -> ".join([*self._open[self._open.index(name) :], name])
                raise _VariableError(f"the variable {name} is defined by itself ({circle})", None)
            self._open.append(name)
            try:
                text = self._done[name, late] = self._text(self.own[name], late=late)
            finally:
                self._open.pop()
            return text
        if self._outside is None:
            self._outside = self._read_environment()
        if name not in self._outside:
            hint = nearest(name, [*self.own, *self._outside])
            raise _VariableError(f"${{{name}}} is not set", " ".join(filter(None, (hint, _UNSET_HINT))))
        return self._outside[name]

    def _read_environment(self) -> dict[str, str]:
        if self._environment is not None:
            return {name: value for name, value in self._environment.items() if value}
        try:
            files = dotenv_variables(".env")
        except UnicodeDecodeError as error:
            raise ConfigError(f".env is not UTF-8 text: {error.reason} at byte {error.start}.") from None
        return {name: value for source in (files, os.environ) for name, value in source.items() if value}


class _VariableError(Exception):
    """A text has a variable that has no value."""

    def __init__(self, message: str, hint: str | None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def _may_be_late(path: KeyPath) -> bool:
    return path[:1] == ("variables",) or (path[:1] == ("backends",) and len(path) > 2 and path[2] in _LATE_PLACES)
