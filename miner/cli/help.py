"""The help of commands: sections in the order in which people need them, at most 80 columns wide, and readable on a
terminal of 40. `miner --help` loads this module.
"""

from __future__ import annotations

import argparse
import re
import sys
from typing import Any, TextIO, TypeGuard

from miner.cli.output.style import Style, terminal_width
from miner.cli.output.wrap import fitted, wrapped
from miner.core._typing import override

WIDEST = 80
_NARROW = 60
"""Below it an option's help stands under the option, not beside it."""
_WIDEST_CHOICES = 20
_HEADING = re.compile(r"^(?!usage:)[a-zA-Z][\w -]*:$", re.MULTILINE)
_INLINE = re.compile(r"^(usage|exit status):(?= )", re.MULTILINE)


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """argparse's, with words left whole and examples that can be pasted."""

    def __init__(self, prog: str, **settings: Any) -> None:
        self._columns = min(WIDEST, max(20, terminal_width()))
        narrow = self._columns < _NARROW
        settings["width"] = self._columns if narrow else self._columns - 2
        settings["max_help_position"] = 4 if narrow else 26
        super().__init__(prog, **settings)

    @override
    def _split_lines(self, text: str, width: int) -> list[str]:
        return wrapped(" ".join(text.split()), width).splitlines()

    @override
    def _metavar_formatter(self, action: argparse.Action, default_metavar: str) -> Any:
        if _has_many_choices(action):
            return lambda count: (default_metavar,) * count
        return super()._metavar_formatter(action, default_metavar)

    @override
    def _expand_help(self, action: argparse.Action) -> str:
        text = super()._expand_help(action)
        if not _has_many_choices(action):
            return text
        *most, last = map(str, action.choices or ())
        return f"{text}; one of {', '.join(most)} and {last}"

    @override
    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return fitted(text, self._columns)

    @override
    def _format_usage(self, usage: str | None, *rest: Any) -> str:
        text = f"usage: {usage or self._prog}"
        if len(text) > self._columns:
            text = wrapped(text, self._columns - 4).replace("\n", "\n    ")
        return f"{text}\n\n"


def usage_of(parser: argparse.ArgumentParser) -> str:
    """The line of usage: what must be given is named, other options are not."""
    if parser.usage is not None:
        return parser.usage
    words = [parser.prog]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            words.append(str(action.metavar))
        elif not action.option_strings:
            name = str(action.metavar or action.dest)
            words.append(
                {"?": f"[{name}]", "*": f"[{name} ...]", "+": f"{name} [{name} ...]"}.get(str(action.nargs), name)
            )
        elif action.required:
            words.append(f"{action.option_strings[-1]} {action.metavar or action.dest.upper()}")
    return " ".join([*words, "[options]"])


def help_of(parser: argparse.ArgumentParser) -> str:
    """The help of a command: usage, description, arguments, actions, options, messages, examples."""
    formatter = parser._get_formatter()
    formatter.add_usage(usage_of(parser), [], [])
    formatter.add_text(parser.description)
    for group in sorted(parser._action_groups, key=_order):
        formatter.start_section(group.title)
        formatter.add_text(group.description)
        for action in group._group_actions:
            # Of actions each with its line of help, without a line for all of them.
            formatter.add_arguments(action._get_subactions() if _has_actions(action) else [action])
        formatter.end_section()
    formatter.add_text(parser.epilog)
    return formatter.format_help()


def _has_many_choices(action: argparse.Action) -> bool:
    """Whether the choices are too many for the place of the value's name."""
    if action.metavar is not None or action.choices is None or _has_actions(action):
        return False
    return len(",".join(map(str, action.choices))) > _WIDEST_CHOICES


def _has_actions(action: argparse.Action) -> TypeGuard[argparse._SubParsersAction[Any]]:
    return isinstance(action, argparse._SubParsersAction)


def _order(group: argparse._ArgumentGroup) -> int:
    if any(map(_has_actions, group._group_actions)):
        return 1
    return {"arguments": 0, "messages": 3}.get(group.title or "", 2)


def print_help(text: str, file: TextIO | None) -> None:
    """Print a help text, its headings in bold where there is colour."""
    stream = file or sys.stdout
    style = Style(stream)
    text = _HEADING.sub(lambda match: style.bold(match[0]), text)
    text = _INLINE.sub(lambda match: style.bold(f"{match[1]}:"), text)
    stream.write(text)
