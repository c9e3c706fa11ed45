"""The command line of a measurement without secrets, and which secrets its requests have."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from miner.cli.doctor.redact import HIDDEN
from miner.cli.json_value import loads
from miner.config.file.problems import hidden


def command_line(arguments: Sequence[str]) -> str:
    """`miner bench ...` as a shell takes it.

    Args:
        arguments: `sys.argv`; the first is the program.
    """
    return shlex.join(["miner", *arguments[1:]])


def shown_command(text: str) -> str:
    """A command line without secrets."""
    try:
        words = shlex.split(text)
    except ValueError:  # nobody can run it, and what is in it is not known
        return HIDDEN
    shown = list(_arguments(words))
    return text if shown == words else shlex.join(shown).replace(f"'{HIDDEN}'", HIDDEN)


def _arguments(words: Sequence[str]) -> Iterator[str]:
    """The words, the values of options without secrets."""
    option = ""
    for word in words:
        if option == "--key" or not word.startswith("-"):
            yield _value(option, word)
            option = ""
            continue
        name, equals, value = word.partition("=")
        yield f"{name}={_value(name, value)}" if equals else word
        option = "" if equals else word


def _value(option: str, text: str) -> str:
    """The value of an option; `-` is the standard input."""
    if text == "-":
        return text
    if option != "--extra-body":
        return str(hidden(text, (option.strip("-"),)))
    try:
        fields = loads(text)
    except ValueError:
        return HIDDEN
    shown = hidden(fields, ())
    return text if shown == fields else json.dumps(shown, ensure_ascii=False)


def taken(value: Any, shown: Any) -> Iterator[str]:
    """The texts in a value that are replaced in what `hidden` made of it, whole."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield from taken(each, shown[name] if isinstance(shown, dict) else HIDDEN)
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from taken(each, shown[number] if isinstance(shown, list) else HIDDEN)
    elif isinstance(value, str) and value != shown:
        yield value
