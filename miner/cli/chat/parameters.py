"""The parameters that `/set` knows, under our names and Ollama's."""

from __future__ import annotations

from typing import Any

from miner.cli.guess import nearest
from miner.cli.json_value import loads
from miner.core.llms.contract.request import REASONING_LEVELS, build_request
from miner.errors import InvalidRequestError

PARAMETERS = {
    "temperature": "0 to 2; 0: greedy",
    "max_tokens": "most tokens of a response; -1: until the context ends",
    "top_p": "0 to 1",
    "top_k": "most likely tokens to sample from",
    "min_p": "0 to 1",
    "seed": "for reproducible sampling",
    "stop": "stop sequences, separated by spaces; quote those with spaces",
    "repeat_penalty": "above 1: repeats less",
    "presence_penalty": "-2 to 2",
    "frequency_penalty": "-2 to 2",
    "reasoning": "on, off, or an effort: low, medium, high",
    "keep_alive": "how long the model stays loaded, such as 5m",
}
"""Name -> what it takes."""
_ALIASES = {"num_predict": "max_tokens", "think": "reasoning", "keepalive": "keep_alive"}
_SETTINGS = {
    "num_ctx": "The context is a setting of the engine: LLAMACPP_CTX_SIZE, OLLAMA_NUM_CTX, or vLLM's --max-model-len.",
    "num_gpu": "Layers on the GPU are a setting of the engine: LLAMACPP_N_GPU_LAYERS.",
    "num_thread": "Threads are a setting of the engine: LLAMACPP_THREADS.",
}
"""Ollama's parameters that are none of a request here."""
_WORDS = {"on": True, "true": True, "yes": True, "off": False, "false": False, "no": False}


def parse(name: str, text: str) -> tuple[str, Any]:
    """Return the parameter that is meant and its value, checked; None: the default again.

    Raises:
        InvalidRequestError: there is no such parameter, or the value is not one of its own.
    """
    name = name.lower().replace("-", "_")
    name = _ALIASES.get(name, name)
    if name in _SETTINGS:
        raise InvalidRequestError(f"{name} cannot be set in a chat.", param=name, hint=_SETTINGS[name])
    if name not in PARAMETERS:
        known = [*PARAMETERS, *_ALIASES]
        begun = [each for each in known if each.startswith(name)]
        guess = f"Did you mean {' or '.join(begun)}?" if begun else nearest(name, known)
        hint = guess or f"Parameters: {', '.join(PARAMETERS)}."
        raise InvalidRequestError(f"Unknown parameter {name!r}.", param=name, hint=hint)
    if text.lower() in ("default", "none", ""):
        return name, None
    value = _value(name, text)
    arguments: dict[str, Any] = {"max_tokens": 1, "temperature": 1.0, "top_p": 1.0}
    options = {name: value} if name not in arguments else {}
    build_request(**{**arguments, **({name: value} if name in arguments else {})}, prompt="x", options=options)
    return name, value


def _value(name: str, text: str) -> Any:
    if name == "reasoning":
        word = text.lower()
        if word not in _WORDS and word not in REASONING_LEVELS:
            levels = ", ".join(REASONING_LEVELS)
            raise InvalidRequestError(f"reasoning takes on, off, or one of {levels}, not {text!r:.40}.", param=name)
        return _WORDS.get(word, word)
    if name == "stop":
        import shlex

        try:
            return [each.replace("\\n", "\n").replace("\\t", "\t") for each in shlex.split(text)]
        except ValueError as error:
            raise InvalidRequestError(f"stop {text}: {error}.", param="stop") from None
    if name == "keep_alive":
        try:
            return float(text)
        except ValueError:
            return text
    try:
        number = loads(text)
    except ValueError:
        return text  # the check names it
    return number
