"""From a verb's arguments to a ChatRequest: every parameter validated, with one name and one range on all backends.

Ranges are those that all engines share: Ollama accepts a temperature of -3 and llama.cpp clamps it silently.
"""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Mapping
from typing import Any

from miner.core.llms.contract.extra import checked_extra
from miner.core.llms.contract.messages import checked_messages
from miner.core.llms.contract.structured import output_format
from miner.core.llms.contract.tools import checked_tool_choice, checked_tools
from miner.core.wire import OPTIONS, UNLIMITED, ChatRequest, Timeout
from miner.errors import InvalidRequestError

MAX_STOPS = 256
"""Stop strings of a request: each is searched for at each token."""
MAX_BIASES = 10_000
REASONING_LEVELS = ("minimal", "low", "medium", "high", "xhigh", "max")
"""Reasoning efforts of all APIs, in rising order. A backend uses the nearest one that its engine has."""
SEEDS = 2**32 - 1
"""Number of seeds that all engines distinguish; llama.cpp uses the next number for a random one."""
_LEAST_TOP_P = 1e-6
_NOT_OPTIONS = ("unsupported", "tools", "tool_choice", "model", "max_tokens", "temperature", "top_p")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
"""Go's duration units, in seconds; micro as the micro sign and as the Greek letter."""
_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)"
_PART = re.compile(rf"({_NUMBER})({'|'.join(sorted(_UNITS, key=len, reverse=True))})", re.ASCII)
_DURATION = re.compile(rf"([+-]?)(0|(?:{_PART.pattern})+)", re.ASCII)
LONGEST = 1e9
"""Longest duration in seconds (thirty years): Ollama refuses more than Go's durations can hold."""


def build_request(
    *,
    prompt: Any = None,
    messages: Any = None,
    model: Any = None,
    max_tokens: Any,
    temperature: Any,
    top_p: Any,
    tools: Any = None,
    tool_choice: Any = None,
    unsupported: Any = None,
    options: Mapping[str, Any],
    defaulted: frozenset[str] = frozenset(),
) -> ChatRequest:
    """Return a validated request.

    Args:
        defaulted: arguments that are defaults of the settings.

    Raises:
        InvalidRequestError: names the parameter, its value and what is allowed.
    """
    for name in options:
        if name not in OPTIONS:
            raise _unknown_option(name)
    options = {name: value for name, value in options.items() if value is not None}
    if (prompt is None) == (messages is None):
        raise InvalidRequestError("Pass either prompt or messages.", param="prompt")
    tokens = _token_ids(prompt)
    if tokens is not None and options.get("raw") is not True:
        raise InvalidRequestError(
            "A prompt of token ids bypasses the chat template: it requires raw=True.", param="raw"
        )
    suffix = _suffix(options.get("suffix"))
    if suffix is not None:
        _check_suffix(prompt, tokens, tools, options)
    elif prompt is not None and tokens is None and (not isinstance(prompt, str) or not prompt.strip()):
        raise _wrong("prompt", prompt, "a non-empty string")
    if model is not None and (not isinstance(model, str) or not model.strip()):
        raise _wrong("model", model, "a model name, or None for the default")
    raw = _flag(options, "raw")
    if raw and messages is not None:
        raise InvalidRequestError("raw=True bypasses the chat template: it requires prompt, not messages.", param="raw")
    echo = _flag(options, "echo")
    if echo and not raw:
        raise InvalidRequestError("echo returns a prompt as it is sent: it requires raw=True.", param="echo")
    checked = checked_tools(tools)
    if raw and checked is not None:
        raise InvalidRequestError("raw=True bypasses the chat template, so it does not support tools.", param="raw")
    reasoning = _reasoning(options.get("reasoning"))
    if raw and reasoning:
        raise InvalidRequestError("raw=True bypasses the chat template, so it does not support reasoning.", param="raw")
    return ChatRequest(
        model=model,
        prompt=prompt if tokens is None else "",
        prompt_tokens=tokens,
        messages=None if messages is None else checked_messages(messages),
        max_tokens=_max_tokens(max_tokens),
        temperature=checked_number("temperature", temperature, low=0, high=2),
        # 0 is how clients request greedy decoding; engines refuse it, or treat it as 1.
        top_p=checked_number("top_p", top_p, low=0, high=1) or _LEAST_TOP_P,
        raw=raw,
        suffix=suffix,
        context=_context(options.get("context"), raw=raw),
        stop=_stop(options.get("stop")),
        seed=folded_seed(options.get("seed")),
        top_k=_integer(options, "top_k", 0, 2**31 - 1),
        min_p=_number(options, "min_p", 0, 1),
        repeat_penalty=_number(options, "repeat_penalty", 0, 10, low_open=True),
        presence_penalty=_number(options, "presence_penalty", -2, 2),
        frequency_penalty=_number(options, "frequency_penalty", -2, 2),
        logit_bias=_logit_bias(options.get("logit_bias")),
        logprobs=_logprobs(options.get("logprobs")),
        tools=checked,
        tool_choice=checked_tool_choice(tool_choice, checked),
        parallel_tool_calls=_flag(options, "parallel_tool_calls") if "parallel_tool_calls" in options else None,
        response_format=output_format(options.get("response_format")),
        reasoning=reasoning,
        progress=_flag(options, "progress"),
        echo=echo,
        continuous_usage=_flag(options, "continuous_usage"),
        timeout=_timeout(options.get("timeout")),
        keep_alive=_keep_alive(options.get("keep_alive")),
        extra=checked_extra(options.get("extra")),
        ignore_unsupported=_ignorable(unsupported),
        defaulted=defaulted,
    )


def _ignorable(unsupported: Any) -> bool | frozenset[str]:
    """The parameters that may be left out: all, none, or these."""
    if unsupported is None or unsupported in ("error", "ignore"):
        return bool(unsupported == "ignore")
    if isinstance(unsupported, (list, tuple, set, frozenset)) and all(isinstance(name, str) for name in unsupported):
        for name in unsupported:
            if name not in OPTIONS and name not in ("tools", "tool_choice"):
                raise InvalidRequestError(f"unsupported names {name!r}, which is no option.", param="unsupported")
        return frozenset(unsupported)
    raise _wrong("unsupported", unsupported, '"error", "ignore" or a list of the options that may be ignored')


def _token_ids(prompt: Any) -> list[int] | None:
    """The prompt as token ids; None if it is not a list of integers."""
    if not isinstance(prompt, list) or not prompt or not all(type(token) is int for token in prompt):
        return None
    if not all(0 <= token < 2**31 for token in prompt):
        raise InvalidRequestError("prompt must be a string or a list of token ids.", param="prompt")
    return list(prompt)


def _context(value: Any, *, raw: bool) -> list[int] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(type(token) is int and 0 <= token < 2**31 for token in value):
        raise _wrong("context", value, "a list of token ids")
    if raw and value:
        raise InvalidRequestError("raw=True sends only the prompt, so it does not support context.", param="raw")
    return value


def _suffix(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise _wrong("suffix", value, "a string")
    return value or None


def _check_suffix(prompt: Any, tokens: list[int] | None, tools: Any, options: Mapping[str, Any]) -> None:
    """Refuse what does not go together with a suffix. The text before the gap may be empty."""
    if tokens is not None or not isinstance(prompt, str):
        raise InvalidRequestError(
            "suffix is the text after a gap: it requires prompt, a string, as the text before it.", param="suffix"
        )
    for name in ("tools", "reasoning"):
        if tools if name == "tools" else options.get(name):
            raise InvalidRequestError(f"suffix bypasses the chat template, so it does not support {name}.", param=name)


def _unknown_option(name: str) -> InvalidRequestError:
    near = difflib.get_close_matches(name, [*OPTIONS, *_NOT_OPTIONS], n=1)
    hint = f"Did you mean {near[0]}?" if near else "Pass a field of the engine's own in extra={...}."
    return InvalidRequestError(f"Unknown parameter: {name!r}.", param=name, hint=hint)


def _wrong(name: str, value: Any, allowed: str) -> InvalidRequestError:
    try:
        shown = reprlib.repr(value) if isinstance(value, str) and len(value) > 80 else repr(value)
    except ValueError:  # Python refuses to write out an integer of thousands of digits
        shown = f"a number of {value.bit_length()} bits"
    if len(shown) > 80:
        shown = shown[:77] + "..."
    return InvalidRequestError(f"{name} must be {allowed}, not {shown}.", param=name)


def checked_number(
    name: str, value: Any, *, low: float, high: float, low_open: bool = False, integer: bool = False
) -> float:
    """Return a number if it is in the range; strings, booleans and NaN are not.

    Args:
        low_open: whether `low` itself is excluded.
        integer: whether it must be an integer.

    Raises:
        InvalidRequestError: it is not in the range.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    # NaN is in no range.
    if number and low <= value <= high and not (low_open and value == low) and not (integer and value != int(value)):
        return value  # type: ignore[no-any-return]
    bounds = f"above {low:g} and at most {high:g}" if low_open else f"from {low:g} to {high:.10g}"
    if integer and high >= 2**31 - 1 and not (number and value > high):
        bounds = f"of at least {low:g}"  # the limit of the engines' integers matters only beyond it
    raise _wrong(name, value, f"{'an integer' if integer else 'a number'} {bounds}")


def _number(options: Mapping[str, Any], name: str, low: float, high: float, *, low_open: bool = False) -> float | None:
    return checked_number(name, options[name], low=low, high=high, low_open=low_open) if name in options else None


def _integer(options: Mapping[str, Any], name: str, low: int, high: int) -> int | None:
    return int(checked_number(name, options[name], low=low, high=high, integer=True)) if name in options else None


def folded_seed(value: Any) -> int | None:
    """Return a 64-bit seed as one that every engine accepts, equal seeds as equal ones; None for -1, a random seed.

    Raises:
        InvalidRequestError: it is not a 64-bit integer.
    """
    if value is None:
        return None
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not -(2**63) <= value < 2**63 or value != int(value):
        raise _wrong("seed", value, "a 64-bit integer, or -1 for a random seed")
    return None if value == -1 else int(value) % SEEDS


def _max_tokens(value: Any) -> int:
    if value == UNLIMITED and not isinstance(value, bool):
        return UNLIMITED
    try:
        return int(checked_number("max_tokens", value, low=1, high=2**31 - 1, integer=True))
    except InvalidRequestError as error:
        error.hint = f"{UNLIMITED} generates until the context ends."
        raise


def _flag(options: Mapping[str, Any], name: str) -> bool:
    value = options.get(name, False)
    if not isinstance(value, bool):
        raise _wrong(name, value, "True or False")
    return value


def _stop(value: Any) -> list[str]:
    if value is None:
        return []
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) and text for text in texts):
        raise _wrong("stop", value, "a string or a list of strings, none of them empty")
    if len(texts) > MAX_STOPS:
        raise InvalidRequestError(f"stop has {len(texts)} strings; {MAX_STOPS} at most.", param="stop")
    return list(texts)


def _logprobs(value: Any) -> int | None:
    if value is None or value is False:
        return None
    if value is True:
        return 0
    return int(checked_number("logprobs", value, low=0, high=20, integer=True))


def _logit_bias(value: Any) -> dict[str, float] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise _wrong("logit_bias", value, "a mapping of token ids to numbers from -100 to 100")
    if len(value) > MAX_BIASES:
        raise InvalidRequestError(
            f"logit_bias must have at most {MAX_BIASES} tokens, not {len(value)}.", param="logit_bias"
        )
    checked = {}
    for token, bias in value.items():
        if isinstance(token, bool) or not str(token).isdecimal():
            raise _wrong("logit_bias", token, "a mapping with token ids as keys")
        checked[str(token)] = checked_number(f"logit_bias[{token}]", bias, low=-100, high=100)
    return checked


def _reasoning(value: Any) -> bool | str | None:
    if value is None or isinstance(value, bool) or value in REASONING_LEVELS:
        return value  # type: ignore[no-any-return]
    raise _wrong("reasoning", value, f"True, False or one of {', '.join(REASONING_LEVELS)}")


def _timeout(value: Any) -> Timeout | None:
    if value is None or isinstance(value, Timeout):
        return value
    if isinstance(value, Mapping):
        for name in value:
            if name not in ("first", "between", "total"):
                raise _wrong("timeout", name, "seconds, or a mapping with first, between and total")
        bounds = {name: seconds for name, seconds in value.items() if seconds is not None}
        return Timeout(
            **{n: checked_number(f"timeout.{n}", s, low=0, high=1e6, low_open=True) for n, s in bounds.items()}
        )
    return Timeout(total=checked_number("timeout", value, low=0, high=1e6, low_open=True))


def _keep_alive(value: Any) -> float | str | None:
    if value is not None:
        seconds_of(value)
    return value  # type: ignore[no-any-return]


def seconds_of(value: float | str, name: str = "keep_alive") -> float:
    """Return the seconds of 300, "5m", "1h30m", "1.5h", "-1m" or "0": strings are Go durations, as Ollama's.

    Raises:
        InvalidRequestError: it is not a duration, or longer than LONGEST.
    """
    if isinstance(value, str):
        found = _DURATION.fullmatch(value)
        if found is not None:
            total = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(found.group(2)))
            if total <= LONGEST:
                return -total if found.group(1) == "-" else total
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LONGEST:
        return value
    raise InvalidRequestError(
        f"{name} must be seconds, or a string such as '10m' or '1h30m', not {str(value)[:80]!r}.", param=name
    )
