"""Every error is typed and has hints."""

import asyncio

from miner.core.llms import get_backend
from miner.errors import BackendError, RequestError


async def main() -> None:
    async with get_backend() as service:
        for arguments in ({"model": "no-such-model"}, {"temperature": 9}, {"sede": 1}):
            try:
                await service.generate("Hello", **arguments)
            except RequestError as error:
                print(f"{type(error).__name__}: {error.message} -> {error.hints}")
            except BackendError as error:
                print(f"{error.backend} failed, retryable={error.retryable}: {error}")


asyncio.run(main())
