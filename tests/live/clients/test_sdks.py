"""SDKs and frameworks against the gateway (`-m clients`): each program of `python` and `javascript` runs its cases on
the real engine, and its tool loops on a scripted one. `scripts/clients` installs what they need.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.live.clients.running import Gateways, program

pytestmark = pytest.mark.clients

PROGRAMS = (
    "python/openai_sdk.py", "python/anthropic_sdk.py", "python/ollama_sdk.py", "python/langchain_three.py",
    "python/llamaindex.py", "python/pydanticai.py", "python/instructor_all.py", "python/litellm_all.py",
    "python/agents_sdk.py", "javascript/openai_sdk.mjs", "javascript/anthropic_sdk.mjs", "javascript/ollama_sdk.mjs",
    "javascript/vercel.mjs",
)  # fmt: skip
OVERFLOW = ("context_length_exceeded", "maximum context length", "prompt is too long", "context")
"""Words by which clients recognise a prompt that is too long."""


@pytest.mark.parametrize("path", PROGRAMS)
async def test_every_case_of_a_client(path: str, gateways: Gateways):
    told: dict[str, Any] = await program(path, gateways)
    assert told
    wrong = {name: value for name, value in told.items() if not _is_right(name.rpartition("_")[2], value)}
    assert not wrong


def _is_right(case: str, value: Any) -> bool:
    if case == "reply":
        return isinstance(value, str) and bool(value.strip())
    if case == "stream":
        return isinstance(value, int) and value >= 3
    if case == "tools":
        return isinstance(value, str) and value.startswith("It says:") and "21 degrees" in value
    if case == "structured":
        return bool(value == {"city": "Paris", "population": 2_000_000})
    return isinstance(value, str) and any(word in value.lower() for word in OVERFLOW)
