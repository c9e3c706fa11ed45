"""A response as an instance of a dataclass. The engine enforces the schema; the response is validated too."""

import asyncio
from dataclasses import dataclass

from miner.core.llms import get_backend


@dataclass
class City:
    """What we want to know."""

    name: str
    country: str


async def main() -> None:
    messages = [{"role": "user", "content": "Name a city and its country, as JSON."}]
    async with get_backend() as service:
        reply = await service.chat_completion(messages, response_format=City, max_tokens=80, temperature=0)
        print(reply.parsed)


asyncio.run(main())
