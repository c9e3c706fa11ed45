"""Tools whose parameters Anthropic documents and whose calls the client carries out, as functions.

Sources: Anthropic's pages on the bash, text editor and memory tools, and the types of its `anthropic` package.
"""

from __future__ import annotations

import re
from typing import Any

_DATE = re.compile(r"_(\d{8})$")
_UNDO_BEFORE = "20250429"
"""Versions of the text editor before this one can undo an edit."""


def _object(required: list[str], **properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required}


def _text(description: str) -> dict[str, Any]:
    return {"type": "string", "description": description}


def _number(description: str) -> dict[str, Any]:
    return {"type": "integer", "description": description}


def _commands(*names: str) -> dict[str, Any]:
    return {"type": "string", "enum": list(names), "description": "The command to run."}


_LINES = {
    "type": "array", "items": {"type": "integer"},
    "description": "With view: first and last line, from 1; -1 for the end of the file.",
}  # fmt: skip


def client_tool(kind: str) -> dict[str, Any] | None:
    """The function for a tool's type, such as `bash_20250124`; None if its parameters are not known."""
    found = _DATE.search(kind)
    make = _TOOLS.get(kind[: found.start()]) if found is not None else None
    return None if make is None or found is None else make(found.group(1))


def _bash(_: str) -> dict[str, Any]:
    return {
        "name": "bash",
        "description": "Run a command in a bash session that persists between calls.",
        "parameters": _object(
            [],
            command=_text("The command to run. Required unless the session is restarted."),
            restart={"type": "boolean", "description": "Restart the session."},
        ),
    }


def _text_editor(date: str) -> dict[str, Any]:
    commands = ["view", "create", "str_replace", "insert", *(["undo_edit"] if date < _UNDO_BEFORE else [])]
    return {
        "name": "str_replace_editor" if date < _UNDO_BEFORE else "str_replace_based_edit_tool",
        "description": "View, create and edit files.",
        "parameters": _object(
            ["command", "path"],
            command=_commands(*commands),
            path=_text("Path of the file or directory."),
            file_text=_text("With create: the content of the file."),
            old_str=_text("With str_replace: the text to replace. It must occur in the file exactly once."),
            new_str=_text("With str_replace: the text in its place. With insert: the text to insert."),
            insert_line=_number("With insert: the line after which the text is inserted; 0 for the beginning."),
            view_range=_LINES,
        ),
    }


def _memory(_: str) -> dict[str, Any]:
    return {
        "name": "memory",
        "description": "Keep notes in files below /memories, and read them again in later conversations.",
        "parameters": _object(
            ["command"],
            command=_commands("view", "create", "str_replace", "insert", "delete", "rename"),
            path=_text("Path of the file or directory, below /memories; not with rename."),
            view_range=_LINES,
            file_text=_text("With create: the content of the file."),
            old_str=_text("With str_replace: the text to replace."),
            new_str=_text("With str_replace: the text in its place."),
            insert_line=_number("With insert: the line at which the text is inserted."),
            insert_text=_text("With insert: the text to insert."),
            old_path=_text("With rename: the path of the file."),
            new_path=_text("With rename: its new path."),
        ),
    }


_TOOLS = {"bash": _bash, "text_editor": _text_editor, "memory": _memory}
