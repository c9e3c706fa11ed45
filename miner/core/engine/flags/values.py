"""From the value of a flag, as the operator wrote it, to that of an attribute of `xllamacpp.CommonParams`.

Each raises ValueError with what is allowed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from miner.config.llamacpp import CACHE_TYPES, FlagValue

EXPERTS: Final = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps"
"""llama.cpp's own pattern for the tensors of experts (`LLM_FFN_EXPS_REGEX`)."""
_DENSE = r"\.ffn_(up|down|gate)\."
ON_OFF_AUTO: Final = {"on": "ON", "off": "OFF", "auto": "AUTO"}
SAMPLERS: Final = frozenset(
    "penalties dry top_n_sigma top_k typ_p top_p min_p xtc temperature infill adaptive_p typical_p temp".split()
)
_TRUE, _FALSE = ("on", "enabled", "true", "1"), ("off", "disabled", "false", "0")
_THREADS, _DEVICES = 512, 128
"""Lengths of llama.cpp's arrays."""


@dataclass(frozen=True, slots=True)
class Constant:
    """A value of one of the wheel's enumerations, by name: only the child imports the wheel."""

    family: str
    name: str


@dataclass(frozen=True, slots=True)
class Several:
    """Values of several attributes; mappings are merged with what other flags say."""

    values: Mapping[str, Any]


def _as_text(value: FlagValue) -> str:
    if isinstance(value, bool):
        raise ValueError("needs a value")
    if isinstance(value, tuple):
        raise ValueError("must be one value, not a list")
    return str(value)


def switch(value: FlagValue) -> bool:
    """A flag without a value: true or false."""
    if isinstance(value, bool):
        return value
    raise ValueError("takes no value: set it to true or false")


def inverted(value: FlagValue) -> bool:
    """The same for an attribute that means the opposite."""
    return not switch(value)


def number(least: float | None = None) -> Callable[[FlagValue], float]:
    """A finite number."""

    def convert(value: FlagValue) -> float:
        try:
            result = float(_as_text(value))
        except ValueError as error:
            raise ValueError(str(error) if isinstance(value, bool | tuple) else "must be a number") from None
        if not math.isfinite(result) or (least is not None and result < least):
            raise ValueError("must be a finite number" + ("" if least is None else f" of {least} or more"))
        return result

    return convert


def integer(least: int | None = None, most: int | None = None) -> Callable[[FlagValue], int]:
    """An integer within bounds."""
    bounds = f" from {least} to {most}" if most is not None else f" of {least} or more" if least is not None else ""

    def convert(value: FlagValue) -> int:
        text = _as_text(value)
        if not re.fullmatch(r"[-+]?\d{1,9}", text):
            raise ValueError(f"must be an integer{bounds}")
        result = int(text)
        if (least is not None and result < least) or (most is not None and result > most):
            raise ValueError(f"must be an integer{bounds}")
        return result

    return convert


def choice(choices: Mapping[str, Any]) -> Callable[[FlagValue], Any]:
    """One of a few words."""

    def convert(value: FlagValue) -> Any:
        text = _as_text(value)
        if text not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return choices[text]

    return convert


def constant(family: str, prefix: str, choices: Mapping[str, str]) -> Callable[[FlagValue], Constant]:
    """One of a few words, each of which is a constant of the wheel; for on and off true and false do too."""
    chosen = choice(choices)

    def convert(value: FlagValue) -> Constant:
        if isinstance(value, bool) and "on" in choices:
            value = "on" if value else "off"
        return Constant(family, prefix + chosen(value))

    return convert


cache_type = constant("ggml_type", "GGML_TYPE_", {name: name.upper() for name in CACHE_TYPES})
_PRIORITIES = ("LOW", "NORMAL", "MEDIUM", "HIGH", "REALTIME")


def priority(value: FlagValue) -> Constant:
    """The priority of threads."""
    return Constant("ggml_sched_priority", f"GGML_SCHED_PRIO_{_PRIORITIES[integer(-1, 3)(value) + 1]}")


def on_or_off(value: FlagValue) -> bool:
    """`on` or `off`, or what llama.cpp takes for that."""
    if isinstance(value, bool):
        return value
    text = _as_text(value).lower()
    if text not in (*_TRUE, *_FALSE):
        raise ValueError("must be on or off")
    return text in _TRUE


def zero_or_one(value: FlagValue) -> bool:
    """0 or 1; true and false do too."""
    return value if isinstance(value, bool) else bool(integer(0, 1)(value))


def text(value: FlagValue) -> str:
    """Any text."""
    return _as_text(value)


file = directory = text


def items(value: FlagValue) -> list[str]:
    """The items of a list, or of a text with commas."""
    if isinstance(value, tuple):
        return [str(item) for item in value]
    return [item.strip() for item in _as_text(value).split(",")]


def joined(value: FlagValue) -> str:
    """A list, as a text with commas."""
    return ",".join(items(value))


def numbers(value: FlagValue) -> list[float]:
    """A list of numbers."""
    return [number()(item) for item in items(value)]


def inverse(value: FlagValue) -> float:
    """One over a number."""
    result = number()(value)
    if result <= 0:
        raise ValueError("must be greater than 0")
    return 1 / result


def tensor_split(value: FlagValue) -> list[float]:
    """The share of each GPU."""
    shares = [number(0)(item) for item in re.split(r"[,/]+", joined(value))]
    if len(shares) >= _DEVICES:
        raise ValueError(f"must be at most {_DEVICES - 1} numbers")
    return shares + [0.0] * (_DEVICES - len(shares))


def fit_target(value: FlagValue) -> list[int]:
    """Bytes to leave free on each device, from MiB; one number counts for all."""
    sizes = [integer(0)(item) << 20 for item in re.split(r"[,/]+", joined(value))]
    return sizes * _DEVICES if len(sizes) == 1 else sizes + [1 << 30] * (_DEVICES - len(sizes))


def tensor_overrides(value: FlagValue) -> str:
    """Patterns of tensors and where each goes."""
    rules = items(value)
    for rule in rules:
        pattern, equals, place = rule.rpartition("=")
        if not (pattern and equals and place):
            raise ValueError(f'must be PATTERN=BUFFER, such as "exps=CPU", not {rule!r}')
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
    return ",".join(rules)


def cpu_layers(number_of_layers: int, pattern: str = EXPERTS) -> str:
    """Patterns for the first layers, as llama.cpp makes them of `--n-cpu-moe`."""
    return ",".join(f"blk\\.{layer}{pattern}=CPU" for layer in range(number_of_layers))


def cpu_experts(value: FlagValue) -> str:
    """The experts of the first N layers."""
    return cpu_layers(integer(0, 4096)(value))


def cpu_feed_forward(value: FlagValue) -> str:
    """The dense feed-forward part of the first N layers."""
    return cpu_layers(integer(0, 4096)(value), _DENSE)


def all_cpu_experts(value: FlagValue) -> str:
    """The experts of all layers."""
    return f"{EXPERTS}=CPU" if switch(value) else ""


def cpu_mask(value: FlagValue) -> list[bool]:
    """Processors, as a hexadecimal mask."""
    digits = _as_text(value).removeprefix("0x")
    if not re.fullmatch(r"[0-9a-fA-F]{1,128}", digits):
        raise ValueError("must be a hexadecimal mask, such as 0xff")
    number_of = int(digits, 16)
    return [bool(number_of >> place & 1) for place in range(_THREADS)]


def cpu_range(value: FlagValue) -> list[bool]:
    """Processors, from the first to the last."""
    match = re.fullmatch(r"(\d{0,3})-(\d{0,3})", _as_text(value))
    first, last = (int(match[1] or 0), int(match[2] or _THREADS - 1)) if match else (1, 0)
    if not first <= last < _THREADS:
        raise ValueError(f"must be FIRST-LAST, such as 0-3, below {_THREADS}")
    return [first <= place <= last for place in range(_THREADS)]


def samplers(value: FlagValue) -> str:
    """Names of samplers, in their order."""
    names = list(value) if isinstance(value, tuple) else re.split(r"[;,]", _as_text(value))
    for name in names:
        if name not in SAMPLERS:
            raise ValueError(f"must be of {', '.join(sorted(SAMPLERS))}, with ; between them; {name!r} is none")
    return ";".join(map(str, names))


def template_arguments(value: FlagValue) -> dict[str, str]:
    """Variables of the chat template, each as JSON."""
    try:
        given = json.loads(_as_text(value))
    except json.JSONDecodeError:
        given = None
    if not isinstance(given, dict):
        raise ValueError('must be a JSON object, such as {"enable_thinking": false}')
    return {name: json.dumps(item) for name, item in given.items()}


def reasoning(value: FlagValue) -> Several:
    """Whether to reason, where the template can: on, off or auto."""
    if isinstance(value, str) and value == "auto":
        return Several({"enable_reasoning": -1})
    wanted = on_or_off(value)
    return Several(
        {"enable_reasoning": int(wanted), "default_template_kwargs": {"enable_thinking": str(wanted).lower()}}
    )


def reasoning_effort(value: FlagValue) -> dict[str, str]:
    """The level for the template."""
    level = _as_text(value)
    return {} if level == "default" else {"reasoning_effort": json.dumps(level)}


def reasoning_preserve(value: FlagValue) -> Several:
    """Whether the template keeps earlier reasoning."""
    kept = {"preserve_reasoning": str(switch(value)).lower()}
    return Several({"default_template_kwargs": kept, "preserve_reasoning_specified": True})
