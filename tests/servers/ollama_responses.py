"""What llama.cpp is asked for a request in Ollama's form, and what its response becomes."""

from __future__ import annotations

import json
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from tests.servers.llama_runner import LlamaRunner, RunnerDied
from tests.servers.ollama_shapes import Counts, Pieces, Refusal, now, structure_for

__all__ = ["Job", "chat_part", "common", "fit", "generate_part", "merge", "shortened"]


@dataclass
class Job:
    """One generation: what was asked in Ollama's form, and what llama.cpp is asked for it."""

    body: dict[str, Any]
    asked: dict[str, Any]
    shape: Callable[[dict[str, Any]], dict[str, Any]]
    """Where a line has its text: `chat_part` or `generate_part`."""
    counts: Counts = field(default_factory=Counts)
    began: int = field(default_factory=time.monotonic_ns)

    async def parts(self, runner: LlamaRunner) -> AsyncIterator[dict[str, Any]]:
        """The parts of the response as they come; llama.cpp's refusal is passed on as JSON inside a string."""
        pieces = Pieces(self.counts)
        path = "/v1/completions" if "prompt" in self.asked else "/v1/chat/completions"
        async with runner.slots, aclosing(runner.stream(path, self.asked)) as events:
            async for status, event in events:
                if status != 200:
                    raise Refusal(status, event)
                for part in pieces.feed(event):
                    yield part
        if not pieces.finished:
            raise RunnerDied("the stream ended before its end")

    def line(self, part: dict[str, Any]) -> dict[str, Any]:
        """A line of the stream before the last."""
        extra = {"logprobs": part["logprobs"]} if part.get("logprobs") else {}
        return {"model": self.body["model"], "created_at": now(), **self.shape(part), "done": False, **extra}

    async def last(self, runner: LlamaRunner, said: dict[str, Any], untold: dict[str, Any]) -> dict[str, Any]:
        """The line with `done`: it counts all that was `said` and carries what is still `untold` of it."""
        more = {"logprobs": untold.get("logprobs")}
        if self.shape is generate_part and not self.body.get("raw"):
            _, rendered = await runner.ask("/apply-template", {"messages": self.asked["messages"]})
            _, tokens = await runner.ask("/tokenize", {"content": rendered["prompt"] + said.get("content", "")})
            more = {"context": tokens["tokens"], **more}
        fields = self.counts.fields(self.began, **more)
        return {"model": self.body["model"], "created_at": now(), **self.shape(untold), "done": True, **fields}


def common(body: dict[str, Any], name: str, *, chat: bool) -> dict[str, Any]:
    alternatives = body.get("top_logprobs") or 0
    if not 0 <= alternatives <= 20:
        raise Refusal(400, "top_logprobs must be between 0 and 20")
    asked: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}, "return_progress": True}
    asked |= structure_for(body.get("format"), chat=chat)
    if body.get("logprobs"):
        asked |= {"logprobs": True, "top_logprobs": alternatives} if chat else {"logprobs": max(alternatives, 1)}
    if name == "smollm2-think" and chat:
        asked["chat_template_kwargs"] = {"enable_thinking": body.get("think", True) is not False}
    return asked


async def fit(runner: LlamaRunner, asked: dict[str, Any]) -> None:
    """Cut what is too long silently, as Ollama does: the oldest turns first, then the middle of the text."""
    key = "prompt" if "prompt" in asked else "messages"
    while len(json.dumps(asked[key])) > runner.config.num_ctx:
        path = "/v1/chat/completions/input_tokens" if key == "messages" else "/tokenize"
        status, counted = await runner.ask(path, {key: asked[key], "content": asked.get("prompt", "")})
        if status != 200 or counted.get("input_tokens", len(counted.get("tokens", ()))) < runner.config.num_ctx:
            return
        turns = asked.get("messages") or []
        oldest = next((at for at, turn in enumerate(turns[:-1]) if turn["role"] != "system"), None)
        if oldest is not None:
            del turns[oldest]
            continue
        text = turns[-1]["content"] if turns else asked["prompt"]
        if len(text) < 8:
            return
        text = text[: len(text) // 4] + text[-len(text) // 4 :]
        if turns:
            turns[-1]["content"] = text
        else:
            asked["prompt"] = text


def chat_part(part: dict[str, Any]) -> dict[str, Any]:
    said = {name: part[name] for name in ("thinking", "tool_calls") if part.get(name)}
    return {"message": {"role": "assistant", "content": part.get("content", ""), **said}}


def generate_part(part: dict[str, Any]) -> dict[str, Any]:
    return {"response": part.get("content", "")} | ({"thinking": part["thinking"]} if part.get("thinking") else {})


def merge(parts: list[dict[str, Any]]) -> dict[str, Any]:
    whole: dict[str, Any] = {}
    for part in parts:
        for name, value in part.items():
            whole[name] = whole[name] + value if name in whole else value
    return whole


def shortened(vector: list[float], dimensions: int | None) -> list[float]:
    if not dimensions:
        return vector
    norm = math.sqrt(sum(value * value for value in vector[:dimensions])) or 1.0
    return [value / norm for value in vector[:dimensions]]
