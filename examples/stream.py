"""A streamed response and its usage. Leaving the loop early would stop the engine."""

import asyncio

from miner.core.llms import get_backend


async def main() -> None:
    async with get_backend() as service:
        async for chunk in service.stream("Tell me about the sea.", max_tokens=60, temperature=0):
            print(chunk.content or "", end="", flush=True)
            if chunk.usage:
                print(f"\n{chunk.usage.prompt_tokens} + {chunk.usage.completion_tokens} tokens")


asyncio.run(main())
