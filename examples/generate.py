"""One prompt, one text."""

import asyncio

from miner.config.config import MinerConfig
from miner.core.llms import get_backend


async def main() -> None:
    config = MinerConfig()
    async with get_backend(config.llm_backend, config) as service:
        print(await service.generate("Why is the sky blue?", max_tokens=60, temperature=0))


asyncio.run(main())
