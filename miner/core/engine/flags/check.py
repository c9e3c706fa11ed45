"""The flags of a model: which options they mean, and what becomes of them for each way to start an engine."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Final

from miner.config.llamacpp import FlagValue
from miner.core.engine.flags.options import BY_NAME
from miner.core.engine.flags.owned import KEYED, OTHER_NAMES, OWNED
from miner.core.engine.flags.values import Constant, Several
from miner.errors import ConfigError, EngineStartError

Flag = tuple[str, FlagValue]

_VARIABLE: Final = "LLAMACPP_FLAGS"
_USE_BINARY = 'Set server = "llama-server" of the backend (LLAMACPP_SERVER) to a llama-server binary, or leave it out.'


def canonical(name: str) -> tuple[str, bool]:
    """The first name of the option that a name means, and whether the name switches it on. An unknown name stays as it
    is: a binary may know it.
    """
    name = name.lstrip("-").replace("_", "-")
    known = BY_NAME.get(name)
    if known is not None:
        return known[0].names[0], known[1]
    return OTHER_NAMES.get(name, name), not name.startswith("no-")


def checked(flags: Mapping[str, FlagValue] | None, where: str = _VARIABLE) -> tuple[Flag, ...]:
    """The flags by the first names of their options, in a fixed order, so that equal ones are equal.

    Args:
        where: what to call them in errors.

    Raises:
        ConfigError: one is not for flags, has a key of its own, is there twice, or has a value that it does not take.
    """
    found: dict[str, tuple[str, FlagValue]] = {}
    for written, value in (flags or {}).items():
        name, positive = canonical(written)
        _refuse_owned(written, name, value, where)
        known = BY_NAME.get(name)
        if not positive and name in BY_NAME:
            if not isinstance(value, bool):
                raise ConfigError(f"{where}: {written} = {value!r}: takes no value: set it to true or false.")
            value = not value
        if name in found:
            raise ConfigError(f"{where}: {found[name][0]} and {written} are one option of llama-server.")
        if known is not None:
            try:
                known[0].convert(value)
            except ValueError as error:
                raise ConfigError(f"{where}: {written} = {_shown(value)}: {error}.") from None
        found[name] = written, value
    return tuple(sorted((name, value) for name, (_, value) in found.items()))


def all_names(name: str) -> list[str]:
    """All names of an option by its first, which comes first: versions of llama-server differ."""
    known = BY_NAME.get(name)
    return [name] if known is None else list(known[0].names)


def _refuse_owned(written: str, name: str, value: FlagValue, where: str) -> None:
    if name in OWNED:
        raise ConfigError(f"{where}: {written} = {_shown(value)} is not for flags: {OWNED[name]}.")
    if name in KEYED:
        key, field = KEYED[name]
        raise ConfigError(
            f"{where}: {written} = {_shown(value)} is not for flags: it has a key of its own, {key}.",
            operator_hint=f"Set {field.upper()}.",
        )


def _shown(value: FlagValue) -> str:
    return repr(list(value) if isinstance(value, tuple) else value)


def nearest(name: str, names: Iterable[str]) -> str:
    """A sentence that names the option that was most likely meant."""
    close = difflib.get_close_matches(name, sorted(set(names)), n=1)
    return f"Did you mean {close[0]}?" if close else "Its options are those of `llama-server --help`."


def wheel_parameters(flags: Iterable[Flag]) -> tuple[dict[str, Any], dict[str, list[str]], dict[str, str]]:
    """Attributes of `xllamacpp.CommonParams`, those that are constants, and the flag that each comes from.

    Raises:
        EngineStartError: the wheel cannot take an option.
    """
    values: dict[str, Any] = {}
    constants: dict[str, list[str]] = {}
    names: dict[str, str] = {}
    bits = 0
    for name, value in flags:
        known = BY_NAME.get(name)
        own = None if known is None else known[0].attribute
        if known is None or own is None:
            raise _not_for_the_wheel(name, value, is_known=known is not None)
        result = known[0].convert(value)
        bits |= known[0].sampling_bit
        parts: dict[str, Any] = dict(result.values) if isinstance(result, Several) else {own: result}
        if own.endswith(".cpumask"):
            parts[own.replace(".cpumask", ".mask_valid")] = True
        for attribute, item in parts.items():
            names[attribute] = f"flags: {name}"
            if isinstance(item, Constant):
                constants[attribute] = [item.family, item.name]
            elif isinstance(item, dict):
                values[attribute] = {**values.get(attribute, {}), **item}
            elif attribute.endswith("tensor_buft_overrides"):
                values[attribute] = ",".join(filter(None, (values.get(attribute, ""), item)))
            else:
                values[attribute] = item
    if "sampling.penalty_last_n" in values:
        values["sampling.n_prev"] = max(64, values["sampling.penalty_last_n"])
    if bits:
        values["sampling.user_sampling_config"] = bits
    return values, constants, names


def _not_for_the_wheel(name: str, value: FlagValue, *, is_known: bool) -> EngineStartError:
    what = "the xllamacpp wheel cannot take it" if is_known else "the xllamacpp wheel has no such option"
    hint = _USE_BINARY if is_known else f"{nearest(name, (*BY_NAME, *OTHER_NAMES, *OWNED, *KEYED))} {_USE_BINARY}"
    return EngineStartError(
        f"flags: {name} = {_shown(value)}: {what}.", backend="llamacpp", retryable=False, operator_hint=hint
    )
