"""Options in errors as they were typed: for `-m x` an error is about -m, not about --model."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence

from miner.errors import MinerError

_COMMANDS = re.compile(r"(`[^`]*`)")
"""Commands in a text, which stay as they are."""


def typed_forms(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> dict[str, str]:
    """How a message may name each option that was typed -> the form in which it was typed.

    One that was typed in several forms is not in it: an error may be about either.
    """
    typed: dict[argparse.Action, set[str]] = {}
    for name in _names(parser, arguments):
        typed.setdefault(parser._option_string_actions[name], set()).add(name)
    forms: dict[str, str] = {}
    for action, names in typed.items():
        if len(names) == 1 and len(action.option_strings) > 1:
            (form,) = names
            # argparse and its like name all forms; our own messages the long one.
            forms["/".join(action.option_strings)] = form
            forms.update((name, form) for name in action.option_strings if name.startswith("--") and name != form)
    return forms


def _names(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> Iterator[str]:
    """The options in the arguments, as argparse reads them."""
    known = parser._option_string_actions
    for word in arguments:
        if word == "--":
            return
        name = word.partition("=")[0]
        if name in known:
            yield name
        elif re.match(r"-[^-]", word):
            for letter in word[1:]:  # -vf, -n5
                if f"-{letter}" not in known:
                    break
                yield f"-{letter}"
                if known[f"-{letter}"].nargs != 0:
                    break


def as_typed(text: str, forms: Mapping[str, str]) -> str:
    """The text with its options as they were typed, but for those of commands in backticks."""
    if not forms:
        return text
    longest_first = sorted(forms, key=len, reverse=True)
    option = re.compile(rf"(?<![\w/-])({'|'.join(map(re.escape, longest_first))})(?![\w/-])")
    parts = _COMMANDS.split(text)
    return "".join(part if part.startswith("`") else option.sub(lambda found: forms[found[0]], part) for part in parts)


def name_as_typed(error: MinerError, forms: Mapping[str, str]) -> None:
    """Name the options as they were typed in the error and its hints."""
    error.message = as_typed(error.message, forms)
    if error.hint:
        error.hint = as_typed(error.hint, forms)
    if error.operator_hint:
        error.operator_hint = as_typed(error.operator_hint, forms)
