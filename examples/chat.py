"""A conversation: the second question needs the first reply."""

import asyncio

from miner.core.llms import get_backend


async def main() -> None:
    messages = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
    async with get_backend() as service:
        first = await service.chat_completion(messages, max_tokens=40, temperature=0)
        print(first)
        messages += [{"role": "assistant", "content": str(first)}, {"role": "user", "content": "And of Italy?"}]
        second = await service.chat_completion(messages, max_tokens=40, temperature=0)
        print(second)
        if second.usage is not None:
            print(f"{second.usage.cached_tokens} of {second.usage.prompt_tokens} prompt tokens were cached")


asyncio.run(main())
