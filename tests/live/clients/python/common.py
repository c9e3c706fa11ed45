"""What the client programs share. Each is run with the addresses of two gateways: one over the real engine with the
demo model `demo` and 2048 tokens of context, and one over a scripted engine with the model `m`, which calls each tool
that it is offered once and then repeats its result.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
import traceback
from collections.abc import Callable
from typing import Any

REAL, SCRIPTED = sys.argv[1:3]
KEY = "a-key-of-sixteen-characters"
QUESTION = "Why is the sky blue?"
WEATHER = "What is the weather in Paris?"
TOO_LONG = "The sky is blue. " * 3000
CITY_SCHEMA = {
    "type": "object", "properties": {"city": {"type": "string"}, "population": {"type": "integer"}},
    "required": ["city", "population"], "additionalProperties": False,
}  # fmt: skip


def get_weather(city: str) -> str:
    """Get the weather of a city."""
    assert city == "Paris", city
    return "21 degrees"


TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def run(**cases: Callable[[], Any]) -> None:
    """Run the cases; print what each returned, or its exception, as one JSON object."""
    print(json.dumps(asyncio.run(_run(cases))))


async def _run(cases: dict[str, Callable[[], Any]]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for name, case in cases.items():
        try:
            value = case()
            told[name] = await value if inspect.isawaitable(value) else value
        except Exception as error:  # noqa: BLE001
            traceback.print_exc()
            told[name] = {"error": f"{type(error).__name__}: {error}"}
    return told


def raised(kind: type[Exception] | tuple[type[Exception], ...], call: Callable[[], Any]) -> str:
    """The words of the exception, which has to be of this kind."""
    try:
        call()
    except kind as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"
