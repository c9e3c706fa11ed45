"""What is wrong in a file: where, which key and value, what is allowed; and the error that carries all of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

from miner.config.file.lines import KeyPath
from miner.config.near import closest
from miner.config.secrets import is_secret, without_password, without_url_secrets
from miner.errors import ConfigError

_LONGEST = 80
"""Characters of a value that an error shows."""
MOST = 100
"""Problems that an error lists."""
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_MORE_SECRET = frozenset(
    """apikey auth authorization bearer cookie credential credentials keys passphrase passwd passwords pwd salt
    secrets""".split()
)
_PLACES = frozenset({"file", "path", "dir"})
"""Last words of names whose value says where a secret is."""
_TOKEN_OF_TEXT = re.compile(
    r"(?:^|_)token_(?:ids?|offsets?|logprobs?|budgets?|counts?|num|limit|threshold|prob|type|bias)(?=_|$)|"
    r"(?:^|_)(?:per|bos|eos|eot|pad|unk|sep|cls|mask|stop)_token(?=_|$)"
)
"""Fields and flags of engines, such as `stop_token_ids` and `timings_per_token`."""
_SECRET_NAME = r"[a-z0-9_-]*(?:key|token|secret|password|passwd|auth)"
_SECRET_OPTION = re.compile(rf"-{_SECRET_NAME}", re.IGNORECASE)
_ASSIGNED_SECRET = re.compile(
    rf"((?:-{_SECRET_NAME}\s+|{_SECRET_NAME}=|\bbearer\s+))(?![\"']?\$\{{)(?:\"[^\"]+\"|'[^']+'|[^\s\"']+)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, or worth a note."""

    message: str
    """What is wrong and what is allowed, without the place: "must be an integer from 1 to 256"."""
    path: KeyPath = ()
    """Where in the file's structure; empty: nowhere."""
    line: int | None = None
    """Where in its text."""
    value: str | None = None
    """What stands there, as it is written; secrets are hidden. None: nothing, or a table."""
    hint: str | None = None
    """The way out."""

    @property
    def key(self) -> str:
        """The key as TOML writes it, such as `models.small.context`."""
        return key_text(self.path)

    @property
    def text(self) -> str:
        """The key, its value, and what is wrong."""
        place = self.key if self.value is None else f"{self.key} = {self.value}"
        return f"{place}: {self.message}" if place else self.message

    def located(self, file: str) -> str:
        """The same behind `file:line: `."""
        return f"{file}:{self.line}: {self.text}." if self.line else f"{file}: {self.text}."


class ConfigFileError(ConfigError):
    """A configuration file is invalid. The message is the first problem, the hint its way out and all others."""

    def __init__(self, path: Path, problems: Sequence[Problem]) -> None:
        file = shown_path(path)
        first, *rest = problems
        lines = [f"{problem.located(file)} {problem.hint or ''}".rstrip() for problem in rest[: MOST - 1]]
        if len(rest) >= MOST:
            lines.append(f"{len(rest) - MOST + 1} more.")
        super().__init__(first.located(file), operator_hint="\n  ".join(filter(None, (first.hint, *lines))) or None)
        self.path = path
        """The file."""
        self.problems = tuple(problems)
        """All of them, in the order of their lines."""


def shown_path(path: Path) -> str:
    """The file as errors name it: below the working directory without that, else whole."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (OSError, ValueError):
        return str(path)


def key_text(path: KeyPath) -> str:
    """The path as TOML writes it: dots between keys, quotes where they need them, positions in brackets."""
    text = ""
    for key in path:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            shown = key[: 2 * _LONGEST] if _BARE_KEY.fullmatch(key) else json.dumps(key[:_LONGEST], ensure_ascii=False)
            text += f".{shown}" if text else shown
    return text


def nearest(name: Any, known: Iterable[str]) -> str | None:
    """`Did you mean ...?` if a known name is similar."""
    if not isinstance(name, str):
        return None
    near = closest(name, known)
    return f"Did you mean {near}?" if near else None


def value_at(content: Any, path: KeyPath) -> Any:
    """What stands at a path; None: nothing."""
    for key in path:
        if isinstance(content, Mapping):
            if key not in content:
                return None
            content = content[key]
        elif isinstance(content, list) and isinstance(key, int) and key < len(content):
            content = content[key]
        else:
            return None
    return content


def shown_value(content: Any, path: KeyPath) -> str | None:
    """What stands at a path as TOML writes it, on one line and not longer than fits there, without secrets. None:
    nothing, or a table.
    """
    value = value_at(content, path)
    if value is None or isinstance(value, dict):
        return None
    if isinstance(value, list):
        value = value[:_LONGEST]  # no more than can be shown
    text = toml_text(hidden(value, path))
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 4]} ..."


def hidden(value: Any, path: KeyPath) -> Any:
    """The value with "***" for each secret in it: by the names of keys and of options of commands, and in URLs."""
    if value is None:
        return None
    names = [key for key in path if isinstance(key, str)]
    if names and _names_secret(names[-1]) and not isinstance(value, bool):
        if isinstance(value, dict):
            return {key: hidden(each, path) for key, each in value.items()}
        return value if _only_variable(value) else "***"
    if isinstance(value, dict):
        return {key: hidden(each, (*path, key)) for key, each in value.items()}
    if isinstance(value, list):
        shown: list[Any] = []
        for number, each in enumerate(value):
            follows = number and isinstance(value[number - 1], str) and _SECRET_OPTION.fullmatch(value[number - 1])
            shown.append("***" if follows and not _only_variable(each) else hidden(each, (*path, number)))
        return shown
    if not isinstance(value, str):
        return value
    if "://" in value:
        value = without_url_secrets(value)
    elif names and names[-1] == "url":
        value = without_password(value)
    return _ASSIGNED_SECRET.sub(r"\1***", value)


def _names_secret(name: str) -> bool:
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[.\s-]", "_", name).lower()
    words = _TOKEN_OF_TEXT.sub("", words)
    if name == "keys" or words.rpartition("_")[2] in _PLACES:  # `keys` of a model are names
        return False
    return is_secret(words) or not _MORE_SECRET.isdisjoint(words.split("_"))


def _only_variable(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"\$\{\w+\}", value) is not None


def toml_text(value: Any) -> str:
    """A value as TOML writes it, on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value[: 10 * _LONGEST], ensure_ascii=False)
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(toml_text, value))}]"
    if isinstance(value, dict):
        pairs = ", ".join(f"{key_text((key,))} = {toml_text(each)}" for key, each in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    return str(value)
