"""Prompts of engines that are stopped for a while, in files: their slots' states as llama.cpp saves them.

An engine that is evicted, or unloaded when it is idle, loses what its slots hold; the next request would read its whole
conversation again. So before such a stop each slot's state is written to a file, and after the next load a request that
goes on with one gets it back (`SlotTable` decides), so that a load does not wait for prompts that nobody goes on with.

The files are as secret as the prompts: they are in a directory that only this user can enter, which is removed when the
service closes, or at the next start after a kill. A state is only ever loaded into an engine that is started from an
equal spec (same files, same options) by the same build. Which client's prompt it was plays no role, as in the slots
themselves: an engine uses the part of a state whose tokens are those of the new prompt, and sees nothing of the rest.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
import threading
import weakref
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path

from miner.core.llms.llamacpp.slot_directory import SlotDirectory, remove_orphans
from miner.core.llms.llamacpp.slots import Trace
from miner.core.models.memory.verdict import readable

logger = logging.getLogger("miner.slots")

_SHARE_OF_DISK = 10
"""Without a setting the files take at most the n-th part of what is free on their disk,"""
_MOST_BYTES = 8 << 30
"""and this."""
_DISK_RESERVE = 1 << 30
"""Bytes that are left free on the disk."""
_SETTING = "kv_cache (MINER_KV_CACHE)"
_NO_ROOM = "the disk is full"


@dataclass(eq=False, slots=True)
class FiledPrompt:
    """One state in a file."""

    run: Hashable
    """What must be equal where it is loaded."""
    trace: Trace
    path: Path
    size: int
    """Bytes."""
    tokens: int = 0
    """Of the state, as the engine counted them; 0: it is being written."""


class SlotStore:
    """The files of all engines of a host. Used on one event loop; file operations run in threads.

    Args:
        limit: bytes that they may take; 0: none are written; None: a tenth of what is free on the disk, 8 GiB at most.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        """As it is now; a lower one takes effect with the next file."""
        self._share = 0
        self._directory: SlotDirectory | None = None
        self._preparing = threading.Lock()
        self._failure: str | None = None
        self._closed = False
        self._prompts: list[FiledPrompt] = []
        """The least recently used first: dropped first."""

    def prepare(self) -> None:
        """Create the directory, and remove those of processes that were killed. Once; blocks: not for an event loop."""
        with self._preparing:
            if self._directory is not None or self._failure is not None or self._closed:
                return
            try:
                if self.limit == 0:
                    remove_orphans()
                    return
                self._directory = directory = SlotDirectory()
                weakref.finalize(self, directory.remove)  # at exit, too
                self._share = min(shutil.disk_usage(directory.path).free // _SHARE_OF_DISK, _MOST_BYTES)
            except (OSError, ImportError) as error:
                self._failure = f"their directory cannot be used: {error}"

    @property
    def unusable(self) -> str | None:
        """Why nothing is kept; None: nothing prevents it."""
        if self.limit == 0:
            return f"{_SETTING} is 0"
        return self._failure

    @property
    def _most(self) -> int:
        return self._share if self.limit is None else self.limit

    def find(self, run: Hashable, trace: Trace) -> FiledPrompt | None:
        """The prompt of this run of which the trace has the most."""
        found = [prompt for prompt in self._prompts if prompt.run == run and prompt.tokens]
        return max(found, key=lambda prompt: (prompt.trace.shared(trace), trace.continues(prompt.trace)), default=None)

    def has(self, run: Hashable, trace: Trace) -> bool:
        """Whether this very prompt is in a file; it counts as used then."""
        for prompt in self._prompts:
            if prompt.run == run and prompt.tokens and prompt.trace == trace:
                self.used(prompt)
                return True
        return False

    def used(self, prompt: FiledPrompt) -> None:
        """Drop it after the others."""
        if prompt in self._prompts:
            self._prompts.remove(prompt)
            self._prompts.append(prompt)

    def size(self, run: Hashable) -> tuple[int, int]:
        """Number and bytes of a run's prompts."""
        sizes = [prompt.size for prompt in self._prompts if prompt.run == run]
        return len(sizes), sum(sizes)

    async def create(self, run: Hashable, trace: Trace, size: int) -> FiledPrompt:
        """An empty file for a state of about so many bytes; older ones are dropped for it.

        Raises:
            OSError: there is no room, says its text; or the file cannot be created.
        """
        directory, limit = self._directory, self._most
        if directory is None or self._closed:
            raise OSError("there is no directory for them")
        if size > limit:
            raise OSError(f"one is larger than {_SETTING} allows ({readable(limit)})")
        await self._make_room(limit - size)
        prompt = FiledPrompt(run, trace, directory.path / secrets.token_hex(8), size)
        self._prompts.append(prompt)
        try:
            await asyncio.to_thread(_create, prompt.path, size)
        except BaseException:
            self._prompts.remove(prompt)
            raise
        return prompt

    async def complete(self, prompt: FiledPrompt, tokens: int) -> None:
        """Its state was written: what it goes on from is not needed any more."""
        prompt.size = await asyncio.to_thread(_size_of, prompt.path)
        if prompt not in self._prompts:  # dropped meanwhile
            self.drop(prompt)
            return
        prompt.tokens = tokens
        older = [
            other for other in self._prompts
            if other is not prompt and other.run == prompt.run and _within(other.trace, prompt.trace)
        ]  # fmt: skip
        self.drop(*older)
        await self._make_room(self._most)

    def drop(self, *prompts: FiledPrompt) -> None:
        """Forget prompts, and remove their files in the background."""
        for prompt in prompts:
            if prompt in self._prompts:
                self._prompts.remove(prompt)
            try:
                asyncio.get_running_loop().run_in_executor(None, _remove, prompt.path)
            except RuntimeError:  # no loop runs
                _remove(prompt.path)

    def drop_run(self, run: Hashable) -> None:
        """The same for all prompts of a run."""
        self.drop(*[prompt for prompt in self._prompts if prompt.run == run])

    def close(self) -> None:
        """Remove all files. Nothing is kept afterwards. Blocks: not for an event loop. Idempotent."""
        with self._preparing:
            self._closed = True
            self._prompts.clear()
            if self._directory is not None:
                self._directory.remove()

    async def _make_room(self, most: int) -> None:
        used, dropped = sum(prompt.size for prompt in self._prompts), list[FiledPrompt]()
        for prompt in self._prompts:
            if used <= most:
                break
            if prompt.tokens:  # else it is being written
                used -= prompt.size
                dropped.append(prompt)
        for prompt in dropped:
            self._prompts.remove(prompt)
            await asyncio.to_thread(_remove, prompt.path)


def _within(older: Trace, newer: Trace) -> bool:
    """Whether the newer one goes on with the older one, as far as hashes say."""
    return newer.size >= older.size and newer.shared(older) == len(older.blocks) and len(older.blocks) > 0


def _create(path: Path, size: int) -> None:
    if shutil.disk_usage(path.parent).free < size + _DISK_RESERVE:
        raise OSError(_NO_ROOM)
    # The engine opens an existing file and keeps its mode.
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
