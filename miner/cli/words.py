"""Several words as one argument: `miner generate why is the sky blue --seed 7` without quotes.

argparse takes positional arguments in one piece only, and only some of its versions take them apart again.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

_NUMBER = re.compile(r"-\d[\d.,]*\Z")


def take_words(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split arguments into those that are options, with their values, and the words between them and after `--`.

    A word that begins with a dash is an option, known or not, unless it is a number, `-`, or has spaces in it.
    """
    options: list[str] = []
    words: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return options, words + rest
        action = parser._option_string_actions.get(word)
        if action is not None:
            options.append(word)
            if action.nargs is None and rest:  # it takes one value; there is no option here that takes several
                options.append(rest.pop(0))
        elif _is_option(parser, word):
            options.append(word)
        else:
            words.append(word)
    return options, words


def _is_option(parser: argparse.ArgumentParser, word: str) -> bool:
    if not word.startswith("-") or word == "-" or _NUMBER.match(word):
        return False
    name, equals, _ = word.partition("=")
    return (bool(equals) and name in parser._option_string_actions) or not any(char.isspace() for char in word)
