"""Many prompts concurrently; an error affects only its own prompt."""

import asyncio

from miner.core.llms import get_backend

PROMPTS = ["What is rain?", "What is snow?", "", "What is wind?"]


async def main() -> None:
    async with get_backend() as service:
        async for index, result in service.generate_many(PROMPTS, concurrency=4, max_tokens=30, temperature=0):
            outcome = f"failed: {result}" if isinstance(result, Exception) else result
            print(f"{PROMPTS[index]!r}: {outcome}")


asyncio.run(main())
