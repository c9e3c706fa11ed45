"""Flags for a `llama-server` binary, by what its `--help` lists.

Standard library only: `child.py` runs it where nothing else can be imported.
"""

from __future__ import annotations

import difflib
import re
from typing import Any

_LINE = re.compile(r"\s{0,4}(--?[\w][\w.-]*(?:,\s+--?[\w][\w.-]*)*)(?: (\S.*?))?(?:\s{2,}.*)?$")
_TWO_VALUES = re.compile(r"[A-Z_]+ [A-Z_]+")
_REPEATED = {"--dry-sequence-breaker", "--logit-bias"}
"""Options whose values are texts that may have commas: they come once for each."""


class Listed:
    """One option of the help: its names, with dashes, and what it takes."""

    def __init__(self, names: list[str], takes: str | None) -> None:
        self.names = names
        self.takes = takes

    def opposite(self, name: str) -> str | None:
        """The name that means the opposite of this one."""
        bare = name.lstrip("-")
        other = bare.removeprefix("no-") if bare.startswith("no-") else f"no-{bare}"
        return f"--{other}" if f"--{other}" in self.names else None


def options_of(help_text: str) -> dict[str, Listed]:
    """The options that a help lists, by each of their names."""
    found: dict[str, Listed] = {}
    for line in help_text.splitlines():
        match = _LINE.match(line)
        if match is None or set(match[1]) == {"-"}:
            continue
        listed = Listed([name.strip() for name in match[1].split(",")], match[2])
        for name in listed.names:
            found.setdefault(name, listed)
    return found


def words_of(config: dict[str, Any], help_text: str) -> list[str]:
    """The words for all that versions of llama-server name differently, or that is the operator's own.

    Args:
        config: what `llama_server_arguments` returns.

    Raises:
        ValueError: the binary lacks what a setting or a flag needs; says which.
    """
    words = required_words(config["required"], help_text) + adapter_words(config["adapters"], help_text)
    supported = set(help_text.replace(",", " ").replace("|", " ").replace("[", " ").split())
    for names, *value in config["optional"]:
        words += [word for name in names if name in supported for word in (name, *value)][: 1 + len(value)]
    return words + flag_words(config["named"], help_text)


def flag_words(named: list[Any], help_text: str) -> list[str]:
    """The words for the flags of a model.

    Args:
        named: pairs: the names of the option without dashes, the best first, and its value.

    Raises:
        ValueError: the binary has no such option, or it takes none or another value.
    """
    options = options_of(help_text)
    words: list[str] = []
    for names, value in named:
        dashed = [dash + name for name in names for dash in ("--", "-")]
        name = next((each for each in dashed if each in options), None)
        if name is None:
            raise ValueError(f"{_shown(names[0], value)}: it has no such option. {_nearest(names[0], options)}")
        listed = options[name]
        if listed.takes is None:
            words += _switch(name, value, listed)
        else:
            words += _with_value(name, value, listed.takes)
    return words


def required_words(required: list[Any], help_text: str) -> list[str]:
    """The words for settings: of each the first name that is listed.

    Args:
        required: names, value (None: it takes none), and the setting; None for one that may be left out.

    Raises:
        ValueError: the binary has none of the names.
    """
    options = options_of(help_text)
    words: list[str] = []
    for names, value, setting in required:
        name = next((each for each in names if each in options), None)
        if name is None and setting is not None:
            raise ValueError(f"{setting} needs {' or '.join(names)}, which it does not have: use a newer one")
        if name is not None:
            words += [name] if value is None else [name, value]
    return words


def adapter_words(adapters: list[Any], help_text: str) -> list[str]:
    """The words for LoRA adapters: pairs of file and scale.

    Raises:
        ValueError: the binary takes none.
    """
    options = options_of(help_text)
    words: list[str] = []
    plain = [_quoted(path) for path, scale in adapters if scale == 1.0]
    scaled = [(path, scale) for path, scale in adapters if scale != 1.0]
    if plain:
        _need("--lora", options)
        words += ["--lora", ",".join(plain)]
    if scaled and "," in (_need("--lora-scaled", options).takes or ""):
        words += ["--lora-scaled", ",".join(_quoted(f"{path}:{scale}") for path, scale in scaled)]
    elif scaled:  # before 2026 each came with its scale as a second word
        words += [word for path, scale in scaled for word in ("--lora-scaled", path, str(scale))]
    return words


def _need(name: str, options: dict[str, Listed]) -> Listed:
    if name not in options:
        raise ValueError(f"LLAMACPP_LORA needs {name}, which it does not have: use a newer one")
    return options[name]


def _quoted(text: str) -> str:
    """An item of llama.cpp's comma-separated lists."""
    return '"' + text.replace('"', '""') + '"' if "," in text or '"' in text else text


def _switch(name: str, value: Any, listed: Listed) -> list[str]:
    if not isinstance(value, bool):
        raise ValueError(f"{_shown(name, value)}: takes no value: set it to true or false")
    if value:
        return [name]
    opposite = listed.opposite(name)
    return [opposite] if opposite is not None else []  # one without an opposite is off unless it is given


def _with_value(name: str, value: Any, takes: str) -> list[str]:
    if isinstance(value, bool):
        if "on|off" in takes or {"on", "off"} <= set(re.split(r"\W+", takes)):
            return [name, "on" if value else "off"]
        if "0|1" in takes:
            return [name, str(int(value))]
        raise ValueError(f"{_shown(name, value)}: needs a value: {takes}")
    if not isinstance(value, list):
        return [name, str(value)]
    items = [str(item) for item in value]
    if _TWO_VALUES.fullmatch(takes):
        if len(items) != 2:
            raise ValueError(f"{_shown(name, value)}: needs two values: {takes}")
        return [name, *items]
    if name in _REPEATED:
        return [word for item in items for word in (name, item)]
    return [name, ",".join(items)]


def _nearest(name: str, options: dict[str, Listed]) -> str:
    close = difflib.get_close_matches(f"--{name}", sorted(options), n=1)
    return f"Did you mean {close[0].lstrip('-')}?" if close else "See its --help."


def _shown(name: str, value: Any) -> str:
    return f"flags: {name.lstrip('-')} = {value!r}"
