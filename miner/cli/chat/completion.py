"""Completion of commands, of what they take, and of files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from miner.cli.chat.slash import COMMANDS
from miner.core._typing import override

_MOST_FILES = 200


class ChatCompleter(Completer):
    """Completes lines that begin with a slash.

    Args:
        words: returns what may follow a command of this kind: models, saved, parameters, ...
    """

    def __init__(self, words: Callable[[str], Iterable[str]]) -> None:
        self._words = words

    @override
    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        text = document.text_before_cursor
        if not text.startswith("/") or "\n" in text:
            return
        name, space, rest = text.partition(" ")
        if not space:
            for command in COMMANDS.values():
                if command.name.startswith(name[1:]) and not command.hidden:
                    yield Completion(f"/{command.name}", -len(name), display_meta=command.help)
            return
        found = COMMANDS.get(name[1:].lower())
        if found is None or found.takes is None:
            return
        if found.takes == "file":
            yield from _files(rest)
            return
        if " " in rest and found.takes == "parameter":
            return
        for word in self._words(found.takes):
            if word.startswith(rest):
                yield Completion(word, -len(rest))
        if found.takes in ("tools", "json"):
            yield from _files(rest)


def _files(typed: str) -> Iterable[Completion]:
    """Files that begin so; spaces in names are escaped, as a shell does."""
    plain = typed.replace("\\ ", " ")
    directory, _, start = plain.rpartition("/")
    try:
        entries = sorted(os.scandir(os.path.expanduser(f"{directory}/" if "/" in plain else ".")), key=lambda e: e.name)
    except OSError:
        return
    shown = 0
    for entry in entries:
        if not entry.name.startswith(start) or (entry.name.startswith(".") and not start.startswith(".")):
            continue
        name = entry.name + ("/" if entry.is_dir() else "")
        whole = f"{directory}/{name}" if "/" in plain else name
        yield Completion(whole.replace(" ", "\\ "), -len(typed), display=name)
        shown += 1
        if shown == _MOST_FILES:
            return
