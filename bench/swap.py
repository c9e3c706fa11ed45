"""A conversation on one model, a request to another, and back, with memory for one: what the first token waits for.

    python -m bench.swap [MODEL.gguf ...] [--words 1800] [--rounds 3]     default: the demo model

For each model: the prompt read by an engine that does not have it (fresh), and the conversation's next turn after a
swap, with prompts kept on disk and without. Seconds to the first token: of the whole request, with the wait for the
other model's stop (which saves its slots) and the load, and of its part after the load, which restores and reads the
prompt.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from miner.config.config import MinerConfig
from miner.core.llms import get_backend
from miner.core.llms.LLMService import LLMService
from miner.core.models.resolve import resolve


@dataclass
class Turn:
    """One request."""

    total: float
    """Seconds to the first token."""
    after_load: float
    """Without the wait for a slot and the load."""
    prompt_tokens: int
    cached_tokens: int
    text: str


async def turn(service: LLMService, model: str, messages: list[dict[str, Any]]) -> Turn:
    """Send it, and measure."""
    began, first, waited, usage, text = time.perf_counter(), None, 0.0, None, ""
    stream = service.stream(messages=messages, model=model, max_tokens=8, temperature=0)
    async for chunk in stream:
        if first is None and chunk.content:
            first = time.perf_counter() - began
        text += chunk.content or ""
        if chunk.timings is not None:
            waited = (chunk.timings.queue or 0.0) + (chunk.timings.load or 0.0)
        usage = chunk.usage or usage
    assert first is not None
    assert usage is not None
    return Turn(first, first - waited, usage.prompt_tokens, usage.cached_tokens or 0, text)


async def one_round(models: Path, words: int, number: int, kv_cache: int | None) -> tuple[Turn, Turn, Turn]:
    """The fresh prompt, the other model's turn, and the conversation's next turn after the swap back."""
    config = MinerConfig(
        models_dir=models, llamacpp_max_loaded=1, llamacpp_ctx_size=8192, llamacpp_parallel=1, kv_cache=kv_cache,
        llamacpp_fairness_wait=0.1,
    )  # fmt: skip
    async with get_backend("llamacpp", config) as service:
        await service.load_model("subject")
        text = f"Round {number}. " + " ".join(f"Item {item} is on shelf {item * 7 % 13}." for item in range(words // 6))
        messages = [{"role": "user", "content": text}]
        fresh = await turn(service, "subject", messages)
        other = await turn(service, "other", [{"role": "user", "content": "Hi"}])
        messages += [{"role": "assistant", "content": fresh.text}, {"role": "user", "content": "And then?"}]
        return fresh, other, await turn(service, "subject", messages)


def median(turns: Sequence[Turn], part: str) -> float:
    """Of one figure."""
    return float(statistics.median(getattr(one, part) for one in turns))


async def compare(file: Path, words: int, rounds: int) -> None:
    """Two lines of the table."""
    with tempfile.TemporaryDirectory() as directory:
        models = Path(directory)
        (models / "subject.gguf").symlink_to(file)
        (models / "other.gguf").symlink_to(resolve("demo").path)
        found: dict[int | None, list[tuple[Turn, Turn, Turn]]] = {None: [], 0: []}
        for number in range(rounds):
            for kv_cache, turns in found.items():
                turns.append(await one_round(models, words, number, kv_cache))
    for kv_cache, turns in found.items():
        fresh, other, back = zip(*turns, strict=True)
        ratio = median(back, "after_load") / median(fresh, "after_load")
        print(
            f"| {file.stem} | {'no' if kv_cache == 0 else 'yes'} | {median(fresh, 'prompt_tokens'):.0f} "
            f"| {median(fresh, 'after_load'):.2f} | {median(back, 'cached_tokens'):.0f} of "
            f"{median(back, 'prompt_tokens'):.0f} | {median(back, 'after_load'):.2f} | {ratio:.3f} "
            f"| {median(back, 'total'):.2f} | {median(other, 'total'):.2f} |",
            flush=True,
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--words", type=int, default=1800)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(
        "| model | kept | prompt | fresh s | cached after the swap | after the load s | to fresh | with stop, load s |"
        " other model's turn s |\n|---|---|---|---|---|---|---|---|---|"
    )
    for model in options.models or [resolve("demo").path]:
        asyncio.run(compare(model.absolute(), options.words, options.rounds))


if __name__ == "__main__":
    main()
