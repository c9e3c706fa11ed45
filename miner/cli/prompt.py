"""The prompt of `miner generate`: an argument, standard input, or both."""

from __future__ import annotations

import os
import stat
import sys

from miner.errors import InvalidRequestError

__all__ = ["read_prompt"]


def read_prompt(given: str) -> str:
    """The prompt as it was typed, behind the text that was piped in; `-`: that text alone.

    Raises:
        InvalidRequestError: there is none, or it is no text.
    """
    if given == "-":
        if sys.stdin is None:
            raise InvalidRequestError("The prompt is -, and standard input is closed.", param="prompt")
        text = _standard_input()
        if not text.strip():
            raise InvalidRequestError(
                "Standard input held no prompt.", param="prompt", hint="prompt must be a text that is not empty."
            )
        return text
    if not given.strip():
        raise InvalidRequestError(f"prompt must be a text that is not empty, not {given!r}.", param="prompt")
    text = _standard_input() if _is_piped() else ""
    return f"{text}\n\n{given}" if text.strip() else given


def _is_piped() -> bool:
    """Whether somebody has put a pipe, a file or a socket there; a terminal and /dev/null are none of these."""
    if sys.stdin is None:
        return False
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):  # ValueError: it has no descriptor
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)


def _standard_input() -> str:
    try:
        text = sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"Standard input is no UTF-8 text: {error}.", param="prompt") from None
    return text.removesuffix("\n").removesuffix("\r")
