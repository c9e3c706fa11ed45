"""Text from standard input and from files that a command names."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from miner.cli.parser import UsageError
from miner.errors import InvalidRequestError


def is_piped() -> bool:
    """Whether standard input is a pipe, a file or a socket, as opposed to a terminal or /dev/null."""
    if sys.stdin is None:
        return False
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):  # ValueError: it has no descriptor
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)


def read_stdin() -> str:
    """All of standard input as text, without the newline at its end.

    Raises:
        InvalidRequestError: it is closed, or not UTF-8.
    """
    if sys.stdin is None:
        raise InvalidRequestError("Standard input is closed.", param="prompt")
    try:
        text = sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"Standard input is not UTF-8 text: {error}.", param="prompt") from None
    return without_newline(text)


def read_file(name: str, flag: str) -> str:
    """The text of a file.

    Args:
        flag: the option that names it, for errors.

    Raises:
        UsageError: it cannot be read, or is not UTF-8.
    """
    try:
        return without_newline(read_bytes(name, flag).decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UsageError(f"{flag} {name}: is not UTF-8 text: {error}.") from None


def read_bytes(name: str, flag: str) -> bytes:
    """The content of a file.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        return Path(name).expanduser().read_bytes()
    except (OSError, ValueError, RuntimeError) as error:  # a NUL character in the name; a home that is not known
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UsageError(f"{flag} {name!r} cannot be read: {why}.") from None


def without_newline(text: str) -> str:
    """The text without one newline at its end."""
    return text.removesuffix("\n").removesuffix("\r")


def check_utf8(name: str, *texts: str | None) -> None:
    """Refuse arguments that are not UTF-8: Python decodes them to surrogates, which no engine accepts.

    Raises:
        InvalidRequestError: names the argument.
    """
    for text in texts:
        try:
            (text or "").encode()
        except UnicodeEncodeError:
            raise InvalidRequestError(f"The {name} is not UTF-8 text.", param=name) from None
