"""Files that `miner launch` writes: its own, and changed ones of the user, which it saves first and can restore."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import msgspec

from miner.cli.json_value import loads
from miner.cli.launch.setup import SetupFile
from miner.core.file_errors import way_out
from miner.core.file_replacement import replace_file
from miner.errors import MinerError

MARK = "# Written by `miner launch`, which writes it again; `miner launch --restore` removes it."


class _Written(msgspec.Struct):
    """A file as it was written."""

    digest: str
    backup: str | None = None
    """Where the user's own is; None: there was none."""


def directory() -> Path:
    """The directory for files of `miner launch`."""
    if sys.platform == "win32":
        base = os.environ.get("APPDATA") or "~/AppData/Roaming"
    else:
        stated = os.environ.get("XDG_CONFIG_HOME", "")
        base = stated if os.path.isabs(stated) else "~/.config"
    return Path(os.path.expanduser(base)) / "miner" / "launch"


def write(files: tuple[SetupFile, ...]) -> list[str]:
    """Write the files, readable by their owner only; return notes about those of the user.

    Raises:
        MinerError: one cannot be written, or one that should be ours is not.
    """
    known, notes = _known(), []
    for file in files:
        key, path = str(file.path), file.path
        before = _text(path)
        if before == file.text:
            continue
        written = known.get(key)
        ours = written is not None and before is not None and written.digest == _digest(before)
        if file.owned and before is not None and written is None and MARK not in before:
            raise MinerError(
                f"{path} exists and was not written by `miner launch`.", operator_hint="Move it away, and try again."
            )
        backup = written.backup if written is not None else None
        if not file.owned and before is not None and not ours:
            backup = str(_backup(path, before))
            notes.append(f"{path} was changed; it is saved as {backup}. `miner launch --restore` puts it back.")
        _write(path, file.text)
        known[key] = _Written(_digest(file.text), backup)
    _remember(known)
    return notes


def restore() -> list[str]:
    """Put the user's files back and remove ours; return what was done. A file that was changed since stays as it is."""
    known, done = _known(), []
    for key, written in list(known.items()):
        path, now = Path(key), _text(Path(key))
        if now is not None and _digest(now) != written.digest:
            saved = f" The one from before is {written.backup}." if written.backup else ""
            done.append(f"{path} was changed since and stays as it is.{saved}")
        elif written.backup is not None:
            before = _text(Path(written.backup))
            if before is None:
                done.append(f"{path} stays as it is: its backup {written.backup} is gone.")
            else:
                _write(path, before, private=False)
                Path(written.backup).unlink()
                done.append(f"{path} is as it was before.")
        elif now is not None:
            path.unlink()
            done.append(f"{path} is removed.")
        del known[key]
    _remember(known)
    return done


def _manifest() -> Path:
    return directory() / "files.json"


def _known() -> dict[str, _Written]:
    text = _text(_manifest())
    try:
        return {} if text is None else msgspec.json.decode(text, type=dict[str, _Written])
    except msgspec.DecodeError as error:
        raise MinerError(f"{_manifest()} cannot be read: {error}.", operator_hint="Remove it.") from error


def _remember(known: dict[str, _Written]) -> None:
    if known:
        _write(_manifest(), msgspec.json.format(msgspec.json.encode(known)).decode() + "\n")
    else:
        _manifest().unlink(missing_ok=True)


def _backup(path: Path, text: str) -> Path:
    folder = directory() / "backups"
    number = 1
    while (saved := folder / f"{path.name}.{number}").exists():
        number += 1
    _write(saved, text)
    return saved


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        hint = way_out(error, path) if isinstance(error, OSError) else "It has to be UTF-8 text: move it away."
        raise MinerError(f"{path} cannot be read: {error}.", operator_hint=hint) from error


def _write(path: Path, text: str, *, private: bool = True) -> None:
    """Replace the file at once, so that no program reads half of it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        replace_file(path, text.encode(), private=private)
    except OSError as error:
        hint = way_out(error, path)
        raise MinerError(f"{path} cannot be written: {error.strerror}.", operator_hint=hint) from error


def merged_json(path: Path, changes: dict[str, object]) -> str:
    """The JSON at a path with these changes merged into it, object by object. Comments are lost: the backup has them.

    Raises:
        MinerError: it is no JSON object.
    """
    text = _text(path)
    try:
        value = loads(without_comments(text)) if text and text.strip() else {}
    except ValueError as error:
        raise MinerError(f"{path} is not valid JSON: {error}.", operator_hint="Fix it, and try again.") from error
    if not isinstance(value, dict):
        raise MinerError(f"{path} is not a JSON object.")
    return json.dumps(_merge(value, changes), indent=2, ensure_ascii=False) + "\n"


def _merge(value: dict[str, object], changes: dict[str, object]) -> dict[str, object]:
    merged = dict(value)
    for name, change in changes.items():
        before = merged.get(name)
        both = isinstance(before, dict) and isinstance(change, dict)
        merged[name] = _merge(before, change) if both else change  # type: ignore[arg-type]
    return merged


def without_comments(text: str) -> str:
    """JSON with comments and trailing commas, as editors' settings have them, as plain JSON."""
    out: list[str] = []
    place, size = 0, len(text)
    while place < size:
        char = text[place]
        if char == '"':
            end = place + 1
            while end < size and text[end] != '"':
                end += 2 if text[end] == "\\" else 1
            out.append(text[place : end + 1])
            place = end + 1
        elif text.startswith("//", place):
            place = size if (end := text.find("\n", place)) < 0 else end
        elif text.startswith("/*", place):
            place = size if (end := text.find("*/", place)) < 0 else end + 2
        elif char in "}]":
            while out and (out[-1].isspace() or out[-1] == ","):
                if out.pop() == ",":
                    break
            out.append(char)
            place += 1
        else:
            out.append(char)
            place += 1
    return "".join(out)
