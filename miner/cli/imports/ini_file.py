"""Reads presets as llama-server's router reads them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from miner.cli.imports.yaml_file import read_text
from miner.errors import ConfigError

_HEADER = re.compile(r"\[[ \t]*([^\]]+?)[ \t]*\][ \t]*(?:[;#].*)?")
_PAIR = re.compile(r"(-{0,2}[A-Za-z_][A-Za-z0-9_.-]*)[ \t]*=[ \t]*(.*)")
_END = re.compile(r"[ \t]*[;#]")


@dataclass(slots=True)
class Preset:
    """One section."""

    name: str
    line: int
    pairs: list[tuple[str, str]] = field(default_factory=list)
    """Key and value, in order."""
    remarks: list[tuple[str, str]] = field(default_factory=list)
    """Keys of which a part is not used, with the reason."""


def read_presets(path: Path) -> list[Preset]:
    """The sections, in order; keys before the first one are those of `default`.

    Raises:
        ConfigError: it cannot be read, or a line is neither a section nor a key; names the line.
    """
    found: list[Preset] = [Preset("default", 0)]
    for number, line in enumerate(re.split(r"\r\n|\n|\r", read_text(path)), 1):
        stripped = line.strip(" \t")
        if not stripped or stripped[0] in ";#":
            continue
        header = _HEADER.fullmatch(line.rstrip(" \t"))
        if header is not None:
            found.append(Preset(header[1], number))
            continue
        pair = _PAIR.fullmatch(line.rstrip(" \t"))
        if pair is None:
            raise ConfigError(f"{path}:{number}: neither [SECTION] nor key = value: llama-server refuses the file.")
        end = _END.search(pair[2])
        value = pair[2] if end is None else pair[2][: end.start()]
        preset = found[-1]
        if end is not None and end.start() and pair[2][end.start()] not in " \t":
            preset.remarks.append((pair[1], "a ; or # ends the value, for llama-server too"))
        preset.pairs.append((pair[1], value.strip(" \t")))
    return [preset for preset in found if preset.line or preset.pairs]
