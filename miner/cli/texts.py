"""Several texts as arguments, as lines of a file, or as lines of standard input."""

from __future__ import annotations

from miner.cli.standard_input import check_utf8, is_piped, read_file, read_stdin
from miner.errors import InvalidRequestError


def read_texts(words: list[str], file: str | None, *, what: str, command: str) -> list[str]:
    """The texts: each argument is one, each line of the file, and each line of standard input where there is no other
    text, or for the argument `-`. Empty lines are none.

    Args:
        what: a text is called in errors.
        command: an example for where there is none.

    Raises:
        InvalidRequestError: there is none, or one is not text.
        UsageError: the file cannot be read.
    """
    texts: list[str] = []
    for word in words:
        if word == "-":
            texts += _lines(read_stdin())
        elif not word.strip():
            raise InvalidRequestError(f"A {what} must not be empty.", param=what)
        else:
            check_utf8(what, word)
            texts.append(word)
    if file is not None:
        texts += _lines(read_stdin() if file == "-" else read_file(file, "--input"))
    if not words and file is None and is_piped():
        texts += _lines(read_stdin())
    if not texts:
        raise InvalidRequestError(f"There is no {what}.", param=what, hint=f"Such as: {command}")
    return texts


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def one_line(text: str, width: int) -> str:
    """A text for a table: one line without unprintable characters, cut at a width in characters."""
    from miner.cli.output.tables import printable

    return printable(" ".join(text.split()), limit=max(8, width))
