"""A test server in a thread of its own, for tests whose own code blocks (a command line run with `subprocess.run`)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, TypeVar

from tests.servers.http import WAIT

__all__ = ["in_thread"]

Server = TypeVar("Server", bound=AbstractAsyncContextManager[Any])


@contextmanager
def in_thread(server: Server) -> Iterator[Server]:
    """Run the server in a thread while the block lasts: what `async with` does, without a running loop."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="test server", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(WAIT)
        try:
            yield server
        except BaseException as error:
            asyncio.run_coroutine_threadsafe(server.__aexit__(type(error), error, None), loop).result(WAIT)
            raise
        asyncio.run_coroutine_threadsafe(server.__aexit__(None, None, None), loop).result(WAIT)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(WAIT)
        loop.close()
