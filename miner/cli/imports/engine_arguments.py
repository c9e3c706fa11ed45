"""llama-server's command line, as a list of options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from miner.cli.imports.draft import readable
from miner.cli.imports.engine_option_names import ENGINE_OPTIONS
from miner.core._typing import override

TRUE = ("true", "on", "1", "enabled")
FALSE = ("false", "off", "0", "disabled")


class NotCarriedError(Exception):
    """An option that no key of `miner.toml` can stand for, as it is given."""

    def __init__(self, written: str, why: str) -> None:
        """`written`: the spelling of the option there."""
        super().__init__(written, why)
        self.written = written
        self.why = why

    @override
    def __str__(self) -> str:
        return f"{readable(self.written)}{readable(self.why)}"


@dataclass(frozen=True, slots=True)
class Given:
    """An option as the other file has it."""

    name: str
    """As in ENGINE_OPTIONS."""
    value: str | bool
    written: str
    """The spelling there."""


def given_of(arguments: Sequence[str]) -> list[Given]:
    """The options of a command line.

    Raises:
        NotCarriedError: one is unknown, or lacks its value.
    """
    found: list[Given] = []
    at = 0
    while at < len(arguments):
        written = arguments[at]
        at += 1
        # llama-server takes underscores for dashes, and --name=value
        spelling, has_value, value = written.partition("=") if written.startswith("--") else (written, "", "")
        key = spelling.lstrip("-").replace("_", "-")
        option = ENGINE_OPTIONS.get(key) if spelling.startswith("-") else None
        if option is None or key.isupper():
            raise NotCarriedError(spelling, " is no option of llama-server that is known here")
        if not option.takes_value:
            if has_value:
                raise NotCarriedError(spelling, " takes no value")
            found.append(Given(option.name, not option.negated, spelling))
            continue
        if not has_value:
            if option.name == "flash-attn" and (at == len(arguments) or arguments[at] not in (*TRUE, *FALSE, "auto")):
                value = "on"  # older versions: without a value
            elif at == len(arguments):
                raise NotCarriedError(spelling, " has no value")
            else:
                value = arguments[at]
                at += 1
        if option.name == "control-vector-layer-range":
            raise NotCarriedError(spelling, " takes two values")
        found.append(Given(option.name, value, spelling))
    return found
