"""Types of MinerConfig's fields for options of llama.cpp that are more than one word: adapters, speculation, flags."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator

from miner.config.llamacpp import SPECULATION, FlagValue

_SCALED = re.compile(r"(.+):(-?\d+(?:\.\d*)?)", re.DOTALL)
_NUMBER = re.compile(r"-\.?\d")


def _adapters(value: Any) -> Any:
    """Pairs of file and scale, from "a.gguf,b.gguf:0.5" or a list of files or pairs."""
    if isinstance(value, os.PathLike):
        value = [value]
    if isinstance(value, str):
        value = [item.strip() for item in value.split(",") if item.strip()]
    if not isinstance(value, list | tuple):
        raise ValueError("must be files, such as a.gguf,b.gguf:0.5 (a scale after a colon)")
    pairs = []
    for item in value:
        if isinstance(item, os.PathLike):
            item = (os.fspath(item), 1.0)
        elif isinstance(item, Mapping):
            item = (item.get("file", ""), item.get("scale", 1.0))
        elif isinstance(item, str):
            match = _SCALED.fullmatch(item)
            item = (match[1], match[2]) if match is not None else (item, 1.0)
        try:
            file, scale = str(item[0]), float(item[1])
        except (TypeError, ValueError, IndexError, KeyError):
            raise ValueError("must be files, such as a.gguf,b.gguf:0.5 (a scale after a colon)") from None
        if not file or not math.isfinite(scale):
            raise ValueError("must be files with finite scales, such as a.gguf,b.gguf:0.5")
        pairs.append((file, scale))
    return tuple(pairs)


def _speculation(value: Any) -> Any:
    """Names of `--spec-type`, comma-separated; "draft" is short for draft-simple."""
    if not isinstance(value, str):
        return value
    names = ["draft-simple" if name == "draft" else name for name in (each.strip() for each in value.split(","))]
    for name in names:
        if name not in SPECULATION:
            raise ValueError(f"must be one of draft, {', '.join(SPECULATION)}, or several with commas between them")
    return ",".join(names)


def flag_words(text: str) -> dict[str, FlagValue]:
    """Flags from words as on a command line, such as "--rope-freq-base 10000 --no-kv-offload".

    Raises:
        ValueError: it does not begin with a flag, or a quote is not closed.
    """
    flags: dict[str, list[str]] = {}
    name = None
    for word in shlex.split(text):
        if word.startswith("-") and word != "-" and not _NUMBER.match(word):
            name, equals, value = word.lstrip("-").partition("=") if word.startswith("--") else (word[1:], "", "")
            values = flags.setdefault(name, [])
            if equals:
                values.append(value)
        elif name is None:
            raise ValueError("must begin with a flag, such as --rope-freq-base 10000")
        else:
            flags[name].append(word)
    return {name: tuple(values) if len(values) > 1 else values[0] if values else True for name, values in flags.items()}


def _flags(value: Any) -> Any:
    """Flags from a JSON object or from words; names without dashes before them, and lists as tuples."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.lstrip().startswith("{") else flag_words(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"must be a JSON object, or words such as --rope-freq-base 10000: {error}") from None
    pairs: Any = value.items() if isinstance(value, Mapping) else value
    if not isinstance(value, Mapping | tuple) or any(not isinstance(pair, tuple) or len(pair) != 2 for pair in pairs):
        raise ValueError("must be a JSON object, or words such as --rope-freq-base 10000")
    flags: dict[str, Any] = {}
    for key, given in pairs:
        name = str(key).lstrip("-").replace("_", "-")
        if not name:
            raise ValueError(f"has a flag {key!r} without a name")
        if name in flags:
            raise ValueError(f"has the flag {name!r} twice")
        each = given if isinstance(given, list | tuple) else (given,)
        if not each or any(not isinstance(item, str | int | float) for item in each):
            raise ValueError(f"the value of {name!r} must be text, a number, true or false, or a list of them")
        flags[name] = tuple(given) if isinstance(given, list | tuple) else given
    return flags


LoraAdapters = Annotated[tuple[tuple[str, float], ...], BeforeValidator(_adapters)]
"""`--lora` and `--lora-scaled`: files, each with its scale."""
SpeculationType = Annotated[str, BeforeValidator(_speculation)]
Flags = Annotated[dict[str, FlagValue], BeforeValidator(_flags)]
"""Other options of llama-server, by their names."""
