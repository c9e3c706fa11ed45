"""The installed backends, and whether they are ready."""

import asyncio

from miner.core.llms import get_backends


async def main() -> None:
    for name, backend in get_backends().items():
        async with backend(None) as service:
            health = await service.health()
            print(f"{name}: {health.state} {health.reason or ''} {health.hint or ''}".rstrip())


asyncio.run(main())
