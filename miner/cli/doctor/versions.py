"""The versions of engines that this version of miner was tested with, in one place (docs/cli.md shows the table)."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tested:
    """A range of versions, both ends included."""

    first: str
    last: str
    how: str
    """What the tests do with it."""
    update: str
    """The command that brings a version of the range."""


TESTED = {
    "xllamacpp": Tested(
        "2026.10.11549",
        "2026.10.11549",
        "each test of engines runs it",
        'pip install "llm-service-backends[llamacpp]"',
    ),
    "llama-server": Tested(
        "b11434", "b11549", "its own test suite runs against miner", "https://github.com/ggml-org/llama.cpp/releases"
    ),
    "llama-cpp-python": Tested(
        "0.3.36", "0.3.36", "a lane of its own", 'pip install "llm-service-backends[llama-cpp-python]"'
    ),
    "vllm": Tested("0.32.0", "0.32.0", "a real server on the CPU", 'pip install "llm-service-backends[vllm]"'),
    "ollama": Tested("0.33.0", "0.33.0", "its published API and recorded responses", "https://ollama.com/download"),
}
"""Engine -> range."""


def numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version, to compare with others of the same engine; empty: it has none."""
    return tuple(int(part) for part in re.findall(r"\d+", re.split(r"[-+]|rc|dev|\.post", version)[0])[:4])


def judge(engine: str, version: str | None) -> str | None:
    """What is to be said about a version, in words; None: it is tested, or cannot be judged."""
    tested, found = TESTED.get(engine), numbers(version or "")
    if tested is None or not any(found):  # 0.0.0: a build without a version
        return None
    range_ = tested.first if tested.first == tested.last else f"{tested.first} to {tested.last}"
    if found < numbers(tested.first):
        return f"older than what is tested ({range_})"
    if found > numbers(tested.last):
        return f"newer than what is tested ({range_})"
    return None
