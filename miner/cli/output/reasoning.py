"""The reasoning of a model before its response: on standard error, dim, where it was asked for."""

from __future__ import annotations

import sys

from miner.cli.output.style import Style
from miner.cli.output.terminal import Status
from miner.cli.output.visible import visible


class ReasoningText:
    """Writes reasoning as it arrives, else that the model reasons in the status line.

    Args:
        shown: whether to write it.
    """

    def __init__(self, *, shown: bool) -> None:
        self._shown = shown
        self._style = Style(sys.stderr)
        self._open = False

    def write(self, text: str, status: Status) -> None:
        """Write a piece of it."""
        if not text:
            return
        if not self._shown:
            status.show("reasoning")
            return
        status.erase()
        self._open = True
        self._put(self._style.dim(visible(text) if sys.stderr is not None and sys.stderr.isatty() else text))

    def end(self) -> None:
        """End it, if there was any: an empty line stands before the response."""
        if self._open:
            self._open = False
            self._put("\n\n")

    @staticmethod
    def _put(text: str) -> None:
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except (OSError, AttributeError):
            pass
