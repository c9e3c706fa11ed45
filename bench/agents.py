"""Conversations of a coding agent: how much of each is read again, and how long its next token takes.

    python -m bench.agents                        one conversation of ten turns, then 12 conversations over 8 slots
    python -m bench.agents one --template FILE    with a chat template that has tools
    python -m bench.agents many --turns 4         12 over 8 slots, taking turns

An agent sends its system prompt, 12 tools and all messages again at each turn, and one more tool result; the first
line of the system prompt is Claude Code's, which changes each time. Through `miner serve`, and beside it the engine's
own server in the same run: with the same conversation, and with as many tokens as are new, to see how long it takes to
read them alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from bench import targets
from bench.engine_load import bare_server, settings_of, spec_for
from bench.targets import KEY

SLOTS = 8
CONVERSATIONS = 12
CONTEXT = 8192
REPLY = 8
"""Tokens of each reply."""

_VERBS = ("read", "write", "edit", "list", "search", "run", "stop", "fetch", "plan", "test", "review", "ask")
_RULES = (
    "Read a file before you change it, and keep its style.",
    "Prefer small changes; say what you did in one sentence.",
    "Run the tests of a module after each change of it.",
    "Never delete files that you did not create.",
    "Use the tools for facts about the project, and do not guess.",
    "If a command fails, read its output before you try again.",
    "Write no secrets into files, logs or commit messages.",
    "Answer in the language of the user.",
)


def system_prompt(number: int, *, line: bool) -> str:
    """About 1,300 tokens; the directory at its end differs between conversations."""
    rules = "\n".join(
        f"{place}. {rule} This holds for part {place} of the project, and for its documentation as well."
        for place, rule in enumerate(_RULES * 6, 1)
    )
    checksum = f"{random.randrange(1 << 20):05x}"
    first = f"x-anthropic-billing-header: cc_version=2.1.90.1a2; cc_entrypoint=cli; cch={checksum};\n"
    return (
        f"{first if line else ''}You are a coding agent.\n{rules}\n"
        f"Today's date: 2026-11-28\nWorking directory: ~/project-{number}"
    )


def tools() -> list[dict[str, Any]]:
    """The 12 tools."""
    return [
        {
            "type": "function",
            "function": {
                "name": f"{verb}_file",
                "description": f"Use this to {verb} a file of the project. The path is relative to the directory.",
                "parameters": {
                    "type": "object",
                    "properties": {
                        "path": {"type": "string", "description": f"The file to {verb}"},
                        "limit": {"type": "integer", "description": "Lines at most"},
                    },
                    "required": ["path"],
                },
            },
        }
        for verb in _VERBS
    ]


@dataclass
class Turn:
    """One request: seconds until the first token, and tokens."""

    first: float
    prompt: int
    completion: int
    cached: int
    text: str

    @property
    def total(self) -> int:
        """Tokens that the slot holds afterwards."""
        return self.prompt + self.completion


@dataclass
class Conversation:
    """An agent's conversation on one server."""

    number: int
    line: bool
    messages: list[dict[str, Any]] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)

    def body(self) -> dict[str, Any]:
        """The next request."""
        if not self.messages:
            self.messages.append({"role": "user", "content": f"Fix the failing test of module {self.number}."})
        system = {"role": "system", "content": system_prompt(self.number, line=self.line)}
        return {
            "model": "demo", "messages": [system, *self.messages], "tools": tools(), "max_tokens": REPLY,
            "temperature": 0, "stream": True, "stream_options": {"include_usage": True},
        }  # fmt: skip

    def add(self, turn: Turn) -> None:
        """Add the reply with a tool call, and the call's result."""
        self.turns.append(turn)
        count = len(self.turns)
        name, call = f"{_VERBS[count % 12]}_file", f"call_{self.number}_{count}"
        arguments = json.dumps({"path": f"src/module_{self.number}/part_{count}.py"})
        lines = "\n".join(
            f"{row}: value_{row} = compute({self.number}, {count}, {row * 7 % 13})  # part {count}" for row in range(8)
        )
        self.messages += [
            {"role": "assistant", "content": turn.text or None,
             "tool_calls": [{"id": call, "type": "function", "function": {"name": name, "arguments": arguments}}]},
            {"role": "tool", "tool_call_id": call, "content": lines},
        ]  # fmt: skip

    @property
    def shares(self) -> list[float]:
        """Of each later turn, how much of the previous one's tokens came from the cache."""
        return [min(1.0, turn.cached / before.total) for before, turn in zip(self.turns, self.turns[1:], strict=False)]


class Server:
    """A client of an OpenAI-compatible server."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True), headers={"Authorization": f"Bearer {KEY}"},
            timeout=aiohttp.ClientTimeout(total=900),
        )  # fmt: skip

    async def __aenter__(self) -> Server:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def turn(self, conversation: Conversation) -> Turn:
        """The next turn of a conversation, which is added to it."""
        body = conversation.body()
        began, first, usage, text = time.perf_counter(), None, None, []
        async with self._session.post(f"{self._url}/v1/chat/completions", json=body) as response:
            if response.status != 200:
                raise SystemExit(await response.text())
            async for line in response.content:
                if not line.startswith(b"data: {"):
                    continue
                event = json.loads(line[6:])
                usage = event.get("usage") or usage
                for choice in event["choices"]:
                    delta = choice["delta"]
                    if first is None and (delta.get("content") or delta.get("tool_calls") or choice["finish_reason"]):
                        first = time.perf_counter() - began
                    text.append(delta.get("content") or "")
        assert first is not None
        assert usage is not None
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        turn = Turn(first, usage["prompt_tokens"], usage["completion_tokens"], cached, "".join(text))
        conversation.add(turn)
        return turn

    async def read(self, tokens: list[int], slot: int) -> float:
        """Seconds until the first token of a prompt of token ids on a slot of the engine's own server."""
        body = {"prompt": tokens, "n_predict": 1, "id_slot": slot, "stream": True, "cache_prompt": True}
        began = time.perf_counter()
        async with self._session.post(f"{self._url}/completion", json=body) as response:
            response.raise_for_status()
            async for line in response.content:
                if line.startswith(b"data: "):
                    took = time.perf_counter() - began
                    await response.read()
                    return took
        raise SystemExit("the engine's own server sent nothing")


async def _sides(stack: AsyncExitStack, template: str | None) -> tuple[Server, Server]:
    settings = settings_of(
        llamacpp_parallel=SLOTS, llamacpp_ctx_size=CONTEXT, llamacpp_chat_template=template, llamacpp_cache_ram=4096
    )
    environ = {
        "MINER_API_KEYS": KEY, "LLM_BACKEND": "llamacpp", "LLAMACPP_CTX_SIZE": str(CONTEXT),
        "LLAMACPP_PARALLEL": str(SLOTS), "MINER_SERVE_LOG": "off", "LLAMACPP_CACHE_RAM": "4096",
    }  # fmt: skip
    if template is not None:
        environ["LLAMACPP_CHAT_TEMPLATE"] = template
    gateway = stack.enter_context(targets.serving(environ))
    spec = spec_for(settings)
    # With its own default: idle slots are copied to memory.
    address = await stack.enter_async_context(bare_server(spec, cache_ram_mib=4096, cache_idle_slots=True))
    return (
        await stack.enter_async_context(Server(gateway.url)),
        await stack.enter_async_context(Server(address)),
    )


async def one(turns: int, own_turns: int, template: str | None) -> None:
    """Print a table of one conversation, turn by turn."""
    print(f"\nOne conversation of {turns} turns (load {os.getloadavg()[0]:.1f})\n")
    print("| turn | prompt, tokens | new | of the previous turn cached | TTFT, s | reading the new alone, s | ratio "
          "| the engine's own server: cached | TTFT, s |")  # fmt: skip
    print(f"|{'---|' * 9}", flush=True)
    ratios = []
    async with AsyncExitStack() as stack:
        mine, own = await _sides(stack, template)
        ours, theirs = Conversation(1, line=True), Conversation(1, line=True)
        tokens = [200 + place * 7919 % 40000 for place in range(CONTEXT)]
        for number in range(1, turns + 1):
            before = ours.turns[-1] if ours.turns else None
            turn = await mine.turn(ours)
            new = turn.prompt - (before.total if before is not None else 0)
            row = [f"{number}", f"{turn.prompt}", f"{new}", "", f"{turn.first:.2f}"]
            if before is not None:
                await own.read(tokens[: before.total], SLOTS - 1)
                alone = await own.read(tokens[: turn.prompt], SLOTS - 1)
                ratios.append(turn.first / alone)
                row[3] = f"{ours.shares[-1]:.1%}"
                row += [f"{alone:.2f}", f"{ratios[-1]:.2f}"]
            if number <= own_turns:
                other = await own.turn(theirs)
                row += [""] * (7 - len(row)) + [f"{other.cached}", f"{other.first:.2f}"]
            print(f"| {' | '.join(row + [''] * (9 - len(row)))} |", flush=True)
    print(f"\nfrom the cache, least: {min(ours.shares):.1%} (target: at least 99 %)")
    print(f"TTFT to reading alone: median {statistics.median(ratios):.2f}, max {max(ratios):.2f} (target: at most 1.3)")


async def many(turns: int, template: str | None) -> None:
    """Print how much of 12 conversations over 8 slots comes from the cache."""
    results = []
    async with AsyncExitStack() as stack:
        mine, own = await _sides(stack, template)
        sides = ("miner serve", mine, True), ("the engine's own server, without the line", own, False)
        for name, server, line in sides:
            conversations = [Conversation(number, line=line) for number in range(1, CONVERSATIONS + 1)]
            firsts = []
            for number in range(turns):
                for conversation in conversations:
                    turn = await server.turn(conversation)
                    firsts += [turn.first] if number else []
            cached = sum(turn.cached for one in conversations for turn in one.turns[1:])
            ideal = sum(turn.total for one in conversations for turn in one.turns[:-1])
            least = min(share for one in conversations for share in one.shares)
            results.append((name, cached / ideal, least, statistics.median(firsts), max(firsts)))
    print(f"\n{CONVERSATIONS} conversations over {SLOTS} slots, {turns} turns each, one after another "
          f"(load {os.getloadavg()[0]:.1f})\n")  # fmt: skip
    print("| | of the previous turns from the cache | least | TTFT of later turns: median, s | max, s |")
    print("|---|---|---|---|---|")
    for name, share, least, median, most in results:
        print(f"| {name} | {share:.1%} | {least:.1%} | {median:.2f} | {most:.2f} |")
    print("\ntarget: at least 90 % of the ideal, which is all of the previous turns")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", choices=["one", "many", []], help="default: both")
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--own-turns", type=int, default=3, help="turns of the first table on the engine's own server")
    parser.add_argument("--template", type=Path, help="chat template; default: the model's own, which has no tools")
    args = parser.parse_args()
    template = str(args.template.absolute()) if args.template is not None else None

    async def run() -> None:
        for table in args.tables or ("one", "many"):
            await (one(args.turns, args.own_turns, template) if table == "one" else many(args.turns, template))

    asyncio.run(run())


if __name__ == "__main__":
    main()
