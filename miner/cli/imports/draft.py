"""A `miner.toml` in the making: its tables, and what could not be carried over.

Texts from the other tool's file may hold variables, marked by `variable`; everything else in them is literal.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from miner.config.file.read import LATE_VARIABLES

_MARK = "\x00"
_MARKED = re.compile(f"{_MARK}([A-Za-z_][A-Za-z0-9_]*){_MARK}")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_NOT_IN_NAMES = re.compile(r"(?:[\s\x00-\x1f\x7f*?\"'\\]|\$\{)+")
_SECRET = re.compile(
    r"(?:^|[_\-.])(?:api[_\-.]?keys?|key|token|secrets?|passwords?|passwd|passphrase|credentials?|auth|authorization"
    r"|dsn|webhook|(?:database|redis|webhook)_url)(?=$|[_\-.])"
)
_OPEN_SECRET = re.compile(r"@|\bsk-|\bhf_|\bBearer\b|[A-Za-z0-9+/_-]{24,}")
"""Texts that are, or may be, a secret, whatever their key."""
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_DOLLAR = "DOLLAR"
_WIDTH = 110


def variable(name: str) -> str:
    """What stands for `${name}` in a text."""
    return f"{_MARK}{name}{_MARK}"


def variables_in(text: str) -> list[str]:
    """The variables of a text."""
    return _MARKED.findall(text)


def without_variables(text: str, values: Mapping[str, str]) -> str | None:
    """The text with its variables replaced; None: one of them has no value."""
    if any(name not in values for name in variables_in(text)):
        return None
    return _MARKED.sub(lambda match: values[match[1]], text)


def readable(text: str) -> str:
    """The text as a person would write it."""
    return _MARKED.sub(r"${\1}", text)


def is_secret(key: str) -> bool:
    """Whether the value of a key, or of a variable of the environment, is one that nobody may see."""
    return _SECRET.search(_CAMEL.sub("_", key).lower()) is not None


@dataclass(frozen=True, slots=True)
class Remark:
    """What became of one key of the other file."""

    where: str
    """The key, with the way to it."""
    why: str


@dataclass(slots=True)
class Section:
    """One table; `lines` are comments, and keys with their values, in order."""

    path: tuple[str, ...]
    draft: Draft
    above: list[str] = field(default_factory=list)
    """Comments above its header."""
    lines: list[str | tuple[str, Any, str]] = field(default_factory=list)

    def set(self, key: str, value: Any, comment: str = "") -> None:
        """Give a key its value, at its place if it has one already; None and empty values are left out."""
        for place, line in enumerate(self.lines):
            if isinstance(line, tuple) and line[0] == key:
                self.lines[place] = (key, value, comment or line[2])
                return
        if value is not None and value not in ([], {}):
            self.lines.append((key, value, comment))

    def get(self, key: str) -> Any:
        """The value of a key."""
        return next((line[1] for line in self.lines if isinstance(line, tuple) and line[0] == key), None)

    def add(self, key: str, values: Sequence[Any]) -> None:
        """Append to a list what it does not have."""
        there = list(self.get(key) or [])
        self.set(key, there + [value for value in dict.fromkeys(values) if value not in there])

    def update(self, key: str, values: Mapping[str, Any]) -> None:
        """Add to an inline table."""
        if values:
            self.set(key, {**(self.get(key) or {}), **values})

    def comment(self, text: str) -> None:
        """A comment at this place."""
        self.lines.append(text)

    def lose(self, where: str, key: str, value: Any, why: str) -> None:
        """Name a key that is not carried over, here and in the report.

        Args:
            where: the way to the table that the key is in.
            value: what it had; shown only where it can be no secret.
        """
        name = f"{key}{_names_inside(value)}"
        shown = f"{where}.{name}" if where and not self.path else name
        self.lines.append(f"not carried over: {shown}{_shown(key, value)}: {why}")
        self.draft.lost.append(Remark(readable(f"{where}.{name}" if where else name), readable(why)))

    def change(self, where: str, why: str) -> None:
        """Say that a key is carried over, but means something else here."""
        self.lines.append(f"{where.rpartition('.')[2] or where}: {why}")
        self.draft.changed.append(Remark(readable(where), readable(why)))

    @property
    def content(self) -> dict[str, Any]:
        """Its keys, without comments."""
        return {line[0]: line[1] for line in self.lines if isinstance(line, tuple)}


class Draft:
    """A file in the making."""

    def __init__(self, title: str) -> None:
        """Args: title: what it was made from."""
        self.title = title
        self.lost: list[Remark] = []
        """What is not carried over."""
        self.changed: list[Remark] = []
        """What is carried over, but means something else here."""
        self.to_set: dict[str, str] = {}
        """Variables of the environment that must be set, and what they hold."""
        self.steps: list[str] = []
        """What the operator has to do besides."""
        self.files: dict[str, str] = {}
        """Files to write beside it: name -> text."""
        self.top = Section((), self)
        """Comments above all tables."""
        self._sections: dict[tuple[str, ...], Section] = {}

    def section(self, *path: str) -> Section:
        """The table of that path, created if needed."""
        return self._sections.setdefault(path, Section(path, self))

    def drop(self, section: Section, comment: str) -> None:
        """Leave out a table that says nothing, and say so at the top."""
        del self._sections[section.path]
        self.top.lines += [comment, *(line for line in section.lines if isinstance(line, str))]

    def sections(self, kind: str) -> Iterator[Section]:
        """All tables `[kind.NAME]`, in order."""
        return (section for path, section in self._sections.items() if len(path) == 2 and path[0] == kind)

    def has(self, *path: str) -> bool:
        """Whether there is that table."""
        return path in self._sections

    def name_for(self, kind: str, wanted: str) -> str:
        """A free name for a table `[kind.NAME]`: the wanted one, without characters that names may not have."""
        base = _NOT_IN_NAMES.sub("-", readable(wanted)).strip("-")[:180] or "unnamed"
        taken = {section.path[1].casefold() for section in self.sections(kind)}
        name, number = base, 2
        while name.casefold() in taken:  # names are taken in any case
            name, number = f"{base}-{number}", number + 1
        return name

    def secret(self, wanted: str, what: str) -> str:
        """A variable for a secret that stood in the open in the other file; returns what stands for it in a text."""
        name = re.sub(r"[^A-Z0-9]+", "_", wanted.upper()).strip("_") or "KEY"
        name = f"_{name}" if name[0].isdigit() else name
        base, number = name, 2
        while name in LATE_VARIABLES or self.to_set.get(name, what) != what:
            name, number = f"{base}_{number}", number + 1
        self.to_set[name] = what
        return variable(name)

    def aliases(self) -> None:
        """Take away aliases that no file may have: those that another model has as its name or alias; and name them."""
        taken = {section.path[1].casefold(): section for section in self.sections("models")}
        for section in self.sections("models"):
            kept: list[str] = []
            for alias in section.get("aliases") or []:
                text = readable(alias)
                owner = taken.setdefault(text.casefold(), section)
                if owner is section and text.casefold() in (section.path[1].casefold(), *map(str.casefold, kept)):
                    continue  # names are taken in any case
                if owner is not section:
                    section.lose(".".join(section.path), "alias", alias, f"it is a name of {owner.path[1]}")
                elif not 1 <= len(text) <= 200 or text != text.strip() or not text.isprintable():
                    section.lose(".".join(section.path), "alias", alias, "clients could not name it")
                else:
                    kept.append(text)
            section.set("aliases", kept)
            section.lines = [line for line in section.lines if line != ("aliases", [], "")]

    @property
    def variables(self) -> dict[str, str]:
        """Variables of the environment that the file needs, and what they hold."""
        texts = [line[1] for section in self._sections.values() for line in section.lines if isinstance(line, tuple)]
        used = dict.fromkeys(
            name for text in _texts(texts) for name in variables_in(text) if name not in LATE_VARIABLES
        )
        return {name: self.to_set.get(name, "as for the other tool") for name in used}

    def text(self) -> str:
        """The file."""
        body: list[str] = []
        order = {"limits": 0, "defaults": 1, "backends": 2, "models": 3, "groups": 4}
        for section in sorted(self._sections.values(), key=lambda each: order.get(each.path[0], 5)):
            if section.lines or section.above:
                body += ["", *_section(section)]
        head = list(_comment(self.title))
        if self.variables:
            head += _comment(f"It needs these variables of the environment: {', '.join(self.variables)}.")
        for line in self.top.lines:
            assert isinstance(line, str)
            head += _comment(line)
        if f"${{{_DOLLAR}}}" in "\n".join(body):
            head += ["", "[variables]", f'{_DOLLAR} = "$"  # before a variable']
        return "\n".join([*head, *body]).rstrip("\n") + "\n"


def _texts(value: Any) -> Iterator[str]:
    """All texts in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)


def _section(section: Section) -> Iterator[str]:
    for text in section.above:
        yield from _comment(text)
    yield "[" + ".".join(toml_key(part) for part in section.path) + "]"
    for line in section.lines:
        if isinstance(line, str):
            yield from _comment(line)
            continue
        key, value, comment = line
        if len(comment) > 60:
            yield from _comment(comment)
        written = f"{toml_key(key)} = {toml_value(value)}"
        yield f"{written}  # {_one_line(comment)}" if comment and len(comment) <= 60 else written


def _comment(text: str) -> Iterator[str]:
    """A comment, in lines that are not wider than needed."""
    words, line = _one_line(text).split(" "), "#"
    for word in words:
        if len(line) + len(word) > _WIDTH and line != "#":
            yield line
            line = "#  "
        line += f" {word}"
    yield line.rstrip()


def _one_line(text: str) -> str:
    """Without line ends and without what TOML forbids in comments."""
    return "".join(char if char.isprintable() else " " for char in readable(text)).strip()


def toml_key(key: str) -> str:
    """A key, quoted where needed."""
    return key if _BARE.fullmatch(key) else json.dumps(readable(key), ensure_ascii=False).replace("\x7f", "\\u007f")


def toml_string(text: str) -> str:
    """A basic string. JSON's escapes are TOML's; `$${` is a literal `${`."""
    text = re.sub(rf"\$(?={_MARK})", variable(_DOLLAR), text)
    text = _MARKED.sub(r"${\1}", text.replace("${", "$${")).encode("utf-8", "replace").decode()
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def toml_value(value: Any) -> str:
    """A value in one line, or an array in several where one would be too wide."""
    if isinstance(value, str):
        return toml_string(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{toml_key(str(key))} = {toml_value(each)}" for key, each in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    if isinstance(value, list):
        items = [toml_value(each) for each in value]
        line = f"[{', '.join(items)}]"
        return line if len(line) <= _WIDTH else "[\n" + "".join(f"  {item},\n" for item in items) + "]"
    return str(value)


def _names_inside(value: Any) -> str:
    """The keys in a table, at any depth, each with the way to it."""
    names = list(dict.fromkeys(_paths(value)))
    return f" (with {', '.join(names)})" if names else ""


def _paths(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, each in value.items():
            inside = list(_paths(each))
            yield from (f"{key}.{path}" for path in inside) if inside else (str(key),)
    elif isinstance(value, list):
        for each in value:
            yield from _paths(each)


def _shown(key: str, value: Any) -> str:
    """The value for a comment: numbers, and texts that can be no secret."""
    if isinstance(value, bool | int | float):
        return f" = {toml_value(value)}"
    if not isinstance(value, str) or is_secret(key) or _OPEN_SECRET.search(value):
        return ""
    words = value.split()
    if len(value) > 80 or any(is_secret(word.lstrip("-").partition("=")[0]) for word in words):
        return ""
    return f" = {json.dumps(readable(value), ensure_ascii=False)}"
