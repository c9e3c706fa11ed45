"""What is found out of a target before it is measured: its tokens, and whether its template has tools."""

from __future__ import annotations

from miner.cli.bench.conversation import Conversation, Script
from miner.cli.bench.measure import Measurement
from miner.cli.bench.prompts import Prompts, Scale, measure_scale
from miner.cli.bench.sender import Sender
from miner.errors import MinerError

_TRIES = 3
"""Requests for one count: a server that fails some of them is what is measured."""


class _UncountedError(Exception):
    """The server does not say how many tokens a prompt has; the message is why."""


async def find_scale(sender: Sender, endpoint: str, seed: int) -> tuple[Scale, str, str | None]:
    """How many tokens a word has for this target, by what that was found (`Workload.tokens_counted_by`), and the
    problem where it could not be.
    """
    try:
        return await measure_scale(sender.count, seed, whole=True), "tokenizer", None
    except (MinerError, ValueError):
        pass

    async def count(text: str) -> int:
        problem = ""
        for _ in range(_TRIES):
            seen = await _send(sender, endpoint, text)
            if seen.completed and seen.prompt_tokens:
                return seen.prompt_tokens
            problem = seen.message or "it sends no usage"
        raise _UncountedError(problem)

    try:
        return await measure_scale(count, seed, whole=False), "usage", None
    except (_UncountedError, ValueError) as error:
        return Scale(), "estimate", str(error)


async def has_tools(sender: Sender, seed: int) -> bool:
    """Whether the target takes a conversation with a tool's call and its result."""
    text = Prompts(seed + 1, Scale()).text
    script = Script(texts=[text(4), text(4)], max_tokens=1)
    for _ in range(_TRIES):
        conversation = Conversation(script, "chat", tools=True)
        first = Measurement()
        first.text = ["Yes."]
        conversation.next(None)
        seen = Measurement()
        await sender.send(conversation.next(first), seen)
        if seen.completed:
            return True
        if seen.code in ("400", "422", "invalid_request", "unsupported_feature"):
            return False
    return True  # it fails for another reason, which the runs will tell


async def _send(sender: Sender, endpoint: str, text: str) -> Measurement:
    """Send one request for one token."""
    script = Script(texts=[text], max_tokens=1)
    seen = Measurement()
    await sender.send(Conversation(script, endpoint, tools=False).next(None), seen)
    return seen


async def is_free(sender: Sender, endpoint: str, seed: int) -> bool:
    """Whether the target responds after requests to it were cancelled."""
    return (await _send(sender, endpoint, Prompts(seed + 2, Scale()).text(4))).completed
