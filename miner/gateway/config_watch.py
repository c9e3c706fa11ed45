"""ConfigWatch: serves what a changed `miner.toml` says within 2 s, and says so where it cannot."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from miner.core.llms.contract.config_state import ConfigChange
from miner.core.llms.LLMService import LLMService
from miner.errors import ConfigError

logger = logging.getLogger("miner.gateway")

_POLL_SECONDS = 0.25
_SETTLE_SECONDS = 0.4
"""How long a file that was changed must stay as it is, before it is read."""
_COMPLETE_SECONDS = 1.0
"""How long it must stay so until it counts as complete: an editor may be writing one that is wrong, or has fewer models
than before, or is missing.
"""
_LATEST_SECONDS = 1.4
"""When a file that keeps changing is read nevertheless."""

Stamp = tuple[tuple[int, ...], ...]


class ConfigWatch:
    """Looks at the file, and at those that it names, four times a second. Symbolic links are followed, so that a
    directory which is replaced as a whole (Kubernetes) is seen.

    Args:
        on_change: called when another table is served.
    """

    def __init__(self, service: LLMService, on_change: Callable[[ConfigChange], None] = lambda _: None) -> None:
        self._service = service
        self._on_change = on_change
        self._asked = asyncio.Event()

    def read_now(self) -> None:
        """Read the file at once, whether or not it has changed: SIGHUP."""
        self._asked.set()

    async def run(self) -> None:
        """Watch, forever."""
        loop = asyncio.get_running_loop()
        served: Stamp | None = None  # the file may have changed since the service was made
        last: Stamp | None = None
        changed_at = since = loop.time()
        while True:
            stamp, now = await asyncio.to_thread(_stamp, self._paths()), loop.time()
            if stamp != last:
                changed_at = now if last == served else changed_at
                last, since = stamp, now
            if self._asked.is_set():
                self._asked.clear()
                await self._read(complete=True, asked=True)
                served = stamp
            elif stamp != served:
                is_due = now - since >= _SETTLE_SECONDS or now - changed_at >= _LATEST_SECONDS
                if is_due and await self._read(complete=now - since >= _COMPLETE_SECONDS):
                    served = stamp
            with suppress(TimeoutError):
                async with asyncio.timeout(_POLL_SECONDS):
                    await self._asked.wait()

    def _paths(self) -> tuple[Path, ...]:
        state = self._service.config_state
        return () if state is None else (state.path, *state.others)

    async def _read(self, *, complete: bool, asked: bool = False) -> bool:
        """Read the file; return whether that is done until it changes. Who has `asked` for it is told that nothing has
        changed.
        """
        try:
            change = await self._service.reload(complete=complete)
        except ConfigError as error:
            if complete:
                hint = f" {error.operator_hint}" if error.operator_hint else ""
                logger.error("%s%s What was served before still is.", error.message, hint)
            return complete
        state = self._service.config_state
        path = state.path if state is not None else "The file"
        if change:
            logger.info("%s was read again: %s.", path, change)
            self._on_change(change)
        elif asked:
            logger.info("%s was read again: nothing has changed.", path)
        return True


def _stamp(paths: tuple[Path, ...]) -> Stamp:
    """What changes when one of the files is written or replaced."""
    stamps: list[tuple[int, ...]] = []
    for path in paths:
        try:
            found = os.stat(path)
        except OSError:
            stamps.append(())
        else:
            stamps.append((found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))
    return tuple(stamps)
