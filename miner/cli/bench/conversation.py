"""The workload: single prompts, or conversations of an agent that grow with each tool's result."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

from msgspec import Struct

from miner.cli.bench.measure import Measurement
from miner.cli.bench.sender import BenchRequest

TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "read_file",
        "description": "Read a file of the project.",
        "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
    },
}


class Script(Struct, kw_only=True):
    """One conversation as planned."""

    texts: list[str]
    """The first is the user's prompt, each other one a tool's result."""
    max_tokens: int


class Conversation:
    """Makes the requests of a script, one after the other.

    Args:
        endpoint: `chat`, `completions` or `embeddings`.
        tools: results are messages of the role tool; else the target's template has none, and the user sends them.
        unsent: called at the end with the number of requests that were not sent, because one before them failed.
    """

    def __init__(
        self, script: Script, endpoint: str, *, tools: bool, unsent: Callable[[int], None] = lambda _: None
    ) -> None:
        self._unsent = unsent
        self._script = script
        self._endpoint = endpoint
        self._tools = tools and len(script.texts) > 1
        self._messages: list[dict[str, Any]] = []
        self._text = ""
        self._turn = 0

    def __len__(self) -> int:
        """Requests that are left."""
        return len(self._script.texts) - self._turn

    def next(self, before: Measurement | None) -> BenchRequest:
        """The next request.

        Args:
            before: the measurement of the one before; None for the first.
        """
        script, turn = self._script, self._turn
        self._turn += 1
        text = script.texts[turn]
        reply = "".join(before.text) if before is not None else ""
        request = BenchRequest(max_tokens=script.max_tokens, keep_text=bool(len(self)), turn=turn)
        if self._endpoint == "chat":
            self._extend(text, reply, turn)
            request.messages = list(self._messages)
            request.tools = [TOOL] if self._tools else None
        else:
            self._text = f"{self._text}{reply}\n{text}" if turn else text
            request.text = self._text
        return request

    def close(self) -> None:
        """No more requests will be sent."""
        self._unsent(len(self))

    def _extend(self, text: str, reply: str, turn: int) -> None:
        if not turn:
            self._messages.append({"role": "user", "content": text})
        elif self._tools:
            call = {"name": "read_file", "arguments": f'{{"path": "part{turn}.txt"}}'}
            self._messages += [
                {"role": "assistant", "content": reply, "tool_calls": [
                    {"id": f"call{turn:05}", "type": "function", "function": call}
                ]},
                {"role": "tool", "tool_call_id": f"call{turn:05}", "name": "read_file", "content": text},
            ]  # fmt: skip
        else:
            self._messages += [{"role": "assistant", "content": reply or "."}, {"role": "user", "content": text}]


def cancellations(share: float, max_tokens: int, seed: int) -> Iterator[int | None]:
    """For each request of a run: None, or after how many chunks it is cancelled, between 1 and half of `max_tokens`.

    Args:
        share: of the requests that are cancelled, evenly among them.
    """
    chosen = random.Random(f"cancel {seed}")
    due = 0.0
    while True:
        due += share
        if due >= 1 - 1e-9:
            due -= 1
            yield chosen.randint(1, max(1, max_tokens // 2))
        else:
            yield None
