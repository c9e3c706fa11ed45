"""Reads and checks `miner.toml`."""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from miner.config.file.check import check
from miner.config.file.lines import KeyPath, Lines, TooDeepError
from miner.config.file.partial import problems_of_rest
from miner.config.file.problems import MOST, ConfigFileError, Problem, key_text, shown_path, shown_value, value_at
from miner.config.file.schema import ConfigFile
from miner.config.file.validation import ONE_TABLE, problems_of
from miner.config.file.variables import LATE_VARIABLES, Variables
from miner.core.file_errors import way_out
from miner.errors import ConfigError

__all__ = ["LATE_VARIABLES", "LoadedConfig", "parse_config", "read_config"]

MAX_BYTES = 1 << 20
_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_KINDS = (
    (stat.S_ISDIR, "a directory"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"),
)  # fmt: skip
_SETTING = re.compile(
    r"""([\w-]+(?:\.[\w-]+)*)(?:[ ]=[ ](?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^\s:]+):?|:)[ ](.+)""", re.DOTALL
)
"""The key, and what is wrong, in an error of code that knows only one table."""
_SYNTAX_HINTS = (
    ("Invalid value", "Text needs quotes; true and false are in small letters."),
    ("Unescaped '\\'", "In double quotes a backslash is written twice; in single quotes once."),
    ("Expected newline or end of document", "Each key has a line of its own."),
    ("Illegal character '\\n'", "The text has no closing quote."),
)


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A file that was read and is valid."""

    path: Path
    """Absolute."""
    text: str = field(repr=False)
    """What it held."""
    content: ConfigFile = field(repr=False)
    """With all variables replaced, but those of LATE_VARIABLES."""
    notes: tuple[Problem, ...] = ()
    """What is no error and yet looks like a mistake, in the order of the lines."""
    written: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """The content as it is written: without defaults, with variables."""
    lines: Lines = field(default_factory=Lines, repr=False, compare=False)
    """Where everything stands in the text."""

    @property
    def directory(self) -> Path:
        """Relative paths in it start here."""
        return self.path.parent

    def located(self, problem: Problem) -> Problem:
        """The problem with its line, and the value that stands there."""
        return _located(problem, self.written, self.lines)

    def error(self, problems: Iterable[Problem]) -> ConfigFileError:
        """The error for problems that show only when the file is used."""
        return ConfigFileError(self.path, [self.located(problem) for problem in problems])

    def error_at(self, where: KeyPath, error: ConfigError) -> ConfigFileError:
        """The same for an error of a table's own, whose message is "key = value: reason", or a reason."""
        path, message = where, error.message
        # Below a key that is a table itself, the reason may be "key = value: reason" again.
        while (found := _SETTING.fullmatch(message)) is not None:
            below = (*path, *found[1].split("."))
            if value_at(self.written, below) is None:
                break
            path, message = below, found[2]
        return self.error([Problem(message.rstrip("."), path, hint=error.hints)])


def read_config(path: Path, environment: Mapping[str, str] | None = None) -> LoadedConfig:
    """Read and check a file.

    Args:
        environment: None for this process's, and `.env`.

    Raises:
        ConfigError: it cannot be read, or is invalid (ConfigFileError): file, line, key, value, and what is allowed.
    """
    try:
        data = _read(path)
    except FileNotFoundError:
        raise ConfigError(
            f"There is no configuration file {shown_path(path)}.", operator_hint="`miner config init` writes one."
        ) from None
    except OSError as error:
        raise ConfigError(
            f"The configuration file {shown_path(path)} cannot be read: {error.strerror or error}.",
            operator_hint=way_out(error, path),
        ) from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problem = Problem(f"not UTF-8 text: {error.reason} at byte {error.start}", line=line)
        raise ConfigFileError(path, [problem]) from None
    return parse_config(text, path, environment)


def _read(path: Path) -> bytes:
    """The bytes of a regular file: reading a pipe or a device might never end."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = next((words for is_kind, words in _KINDS if is_kind(mode)), "no file")
        raise ConfigError(f"{shown_path(path)} is {kind}, not a configuration file.")
    with open(descriptor, "rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{shown_path(path)} is larger than {MAX_BYTES >> 20} MiB: that is no configuration file.")
    return data


def parse_config(text: str, path: Path, environment: Mapping[str, str] | None = None) -> LoadedConfig:
    """The same for a text that stands for the content of the file at `path`."""
    text = text.removeprefix("\ufeff")
    try:
        lines = Lines(text)  # first: tomllib takes minutes for a key of very many parts
        written = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigFileError(path, [_syntax_problem(str(error), text)]) from None
    except (RecursionError, TooDeepError):
        raise ConfigError(f"{shown_path(path)} has too many arrays and tables inside each other.") from None
    except ValueError as error:  # an integer of thousands of digits
        raise ConfigError(f"{shown_path(path)} is not TOML: {error}.") from None
    variables = Variables(written, environment)
    problems: list[Problem] = []
    replaced = variables.replaced(written, (), problems)
    problems += [Problem("must have no NUL character", where) for where in _with_nul(written, ())]
    content: ConfigFile | None = None
    try:
        content = ConfigFile.model_validate(replaced)
    except ValidationError as error:
        unset = {problem.path for problem in problems}
        problems += [each for each in problems_of(error, replaced, written) if each.path not in unset]
    notes: list[Problem] = []
    if content is not None and not problems:
        problems, notes = check(content, written, variables, path)
        problems, notes = problems[: 2 * MOST], notes[: 2 * MOST]
    elif len(problems) <= 2 * MOST:
        problems = [*problems, *problems_of_rest(problems, replaced, written, variables, path)][: 2 * MOST]
    if content is None or problems:
        found = [_located(problem, written, lines) for problem in problems]
        raise ConfigFileError(path, sorted(found, key=lambda problem: problem.line or 0))
    loaded = LoadedConfig(path, text, content, (), written, lines)
    return replace(loaded, notes=tuple(sorted(map(loaded.located, notes), key=lambda note: note.line or 0)))


def _with_nul(value: Any, path: KeyPath) -> Iterator[KeyPath]:
    """Where texts have a NUL character: no path, argument or header can."""
    if isinstance(value, str) and "\0" in value:
        yield path
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from _with_nul(each, (*path, key))
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from _with_nul(each, (*path, number))


def _located(problem: Problem, written: Mapping[str, Any], lines: Lines) -> Problem:
    line = problem.line or (lines.line(problem.path) if problem.path else None)
    return replace(problem, line=line, value=problem.value or shown_value(written, problem.path))


def _syntax_problem(message: str, text: str) -> Problem:
    place = _PLACE.search(message)
    what = message[: place.start()] if place else message
    last = text.count("\n") + (not text.endswith("\n"))
    line = int(place[1]) if place and place[1] else last
    column = f" (column {place[2]})" if place and place[2] else ""
    if what.startswith(("Cannot ", "Duplicate ")):
        if text.split("\n")[line - 1].lstrip().startswith("[["):
            return Problem("a list of tables stands where tables have names", line=line, hint=ONE_TABLE)
        if (twice := _defined_twice(text, line)) is not None:
            return twice
    hint = next((hint for start, hint in _SYNTAX_HINTS if place and place[1] and what.startswith(start)), None)
    return Problem(f"not TOML: {what[:1].lower()}{what[1:]}{column}", line=line, hint=hint)


def _defined_twice(text: str, line: int) -> Problem | None:
    """The problem where the key or table of this line stands before already."""
    try:
        events = Lines("\n".join(text.split("\n")[:line])).events
    except (RecursionError, TooDeepError):
        return None
    counts = Counter(path for path, _ in events)
    path = next((path for path, at in events if at == line and counts[path] > 1), None)
    if path is None:
        return None
    first = next(at for other, at in events if other == path)
    shown = key_text(path)
    what = f"[{shown}] is" if text.split("\n")[line - 1].lstrip().startswith("[") else f"{shown} is"
    return Problem(f"{what} defined twice; first in line {first}", line=line, hint="Keep one of them.")
