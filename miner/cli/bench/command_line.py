"""The command line as a result quotes it: without secrets."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

_SECRET = ("--key",)
_LOGIN = re.compile(r"(?<=://)[^/@\s]*@")
_QUERY = re.compile(r"(?<=\?)\S+")


def command_line(arguments: Sequence[str]) -> str:
    """`miner bench ...`; keys, and what an address has before the host or behind `?`, are replaced by `***`.

    Args:
        arguments: `sys.argv`; the first is the program.
    """
    shown, hide = ["miner"], False
    for argument in arguments[1:]:
        name, equals, _ = argument.partition("=")
        if hide:
            shown.append("***" if argument != "-" else "-")
        elif name in _SECRET and equals:
            shown.append(f"{name}=***")
        else:
            shown.append(_QUERY.sub("***", _LOGIN.sub("***@", argument)) if "://" in argument else argument)
        hide = not hide and argument in _SECRET
    return shlex.join(shown).replace("'***'", "***")
