"""Saves what the slots of an engine hold before it is stopped for a while, and loads it into the next run's slots."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from miner.core._typing import override
from miner.core.engine.launchers import Launcher
from miner.core.engine.spec import AnySpec, EngineAddress, EngineSpec
from miner.core.engine.threads import EngineThreads
from miner.core.http.client import HttpClient
from miner.core.http.errors import parse_error_body
from miner.core.llms.llamacpp.slot_store import FiledPrompt, SlotStore
from miner.core.llms.llamacpp.slots import Placement, SlotTable, Trace
from miner.core.llms.llamacpp.threaded_process import ThreadedProcess
from miner.core.models.memory.verdict import readable
from miner.errors import BackendTimeoutError, MinerError

logger = logging.getLogger("miner.slots")

SAVE_SECONDS = 5.0
"""An eviction waits so long at most for all slots of an engine."""
_RESTORE_SECONDS = 30.0
_FIRST_SPEED = 500e6
"""Bytes a second that are written, until it has been measured."""
_READ_AGAIN = 10
"""Less than the n-th part of a restored prompt in the cache: the engine has read it again."""
_STRIKES = 2
_NOT_USED = "after a restore the engine read the prompt again: its build saves no states that this model can go on with"


class _Done(msgspec.Struct):
    n_saved: int = 0
    n_restored: int = 0


class SlotKeeper:
    """The prompts of all engines of a host that outlive a stop.

    Args:
        store: their files.
    """

    def __init__(self, store: SlotStore) -> None:
        self.store = store
        self._runs: dict[AnySpec, FiledSlots] = {}
        self._refused: dict[AnySpec, str] = {}
        self._skipped: dict[AnySpec, str] = {}
        """Why something was not kept at an engine's last stop."""
        self._reported: set[tuple[AnySpec, str]] = set()
        self._strikes: dict[AnySpec, int] = {}
        """How often in a row a restored prompt was read again."""
        self.speed = _FIRST_SPEED
        """Bytes a second that engines write."""

    def attach(self, spec: AnySpec, slots: FiledSlots) -> None:
        """The slots of the engine's run that begins."""
        self._runs[spec] = slots

    def refuse(self, spec: AnySpec, why: str) -> None:
        """Nothing is kept for this engine from now on."""
        self._refused[spec] = why

    def reason(self, spec: AnySpec) -> str | None:
        """Why nothing is kept for it; None: nothing prevents it."""
        return self.store.unusable or self._refused.get(spec)

    def status(self, spec: AnySpec) -> str | None:
        """What is kept, or why not; None: nothing yet."""
        slots, why = self._runs.get(spec), self.reason(spec)
        number, size = self.store.size(slots.run) if slots is not None else (0, 0)
        if why is None and number:
            return f"kept: {_prompts(number)}, {readable(size)}"
        why = why or self._skipped.get(spec)
        return None if why is None else f"not kept: {why}"

    async def save(self, spec: AnySpec) -> None:
        """Save what its slots hold, in `SAVE_SECONDS`: it is stopped next. Raises nothing but CancelledError."""
        slots = self._runs.get(spec)
        self._skipped.pop(spec, None)
        if self.reason(spec) is None and slots is not None:
            await slots.save()
        if (why := self.reason(spec)) is not None:
            self.report(spec, why)

    def forget(self, spec: AnySpec) -> None:
        """Its files are of no use any more."""
        slots = self._runs.pop(spec, None)
        self._refused.pop(spec, None)
        self._strikes.pop(spec, None)
        self._skipped.pop(spec, None)
        if slots is not None:
            self.store.drop_run(slots.run)

    def strikes(self, spec: AnySpec, cached_tokens: int | None) -> bool:
        """Count that a restored prompt was read again; whether nothing is restored any more.

        Args:
            cached_tokens: how many tokens of it were used nevertheless; None: it was used.
        """
        if cached_tokens is None:
            self._strikes.pop(spec, None)
            return False
        self._strikes[spec] = self._strikes.get(spec, 0) + (1 if cached_tokens else _STRIKES)
        if self._strikes[spec] < _STRIKES:
            return False
        self.refuse(spec, _NOT_USED)
        self.report(spec, _NOT_USED)
        return True

    def report(self, spec: AnySpec, why: str) -> None:
        """Why something is not kept: logged once, and in the status."""
        self._skipped[spec] = why
        if (spec, why) not in self._reported:
            self._reported.add((spec, why))
            logger.info("%s: its prompts are not kept over swaps: %s.", spec.alias, why)


class FiledSlots:
    """The slots of one run of an engine, to and from files.

    Args:
        directory: where the engine looks for files; None: unknown.
        build: the engine's build, once it is known.
    """

    def __init__(
        self, keeper: SlotKeeper, spec: AnySpec, http: HttpClient, table: SlotTable, directory: Path | None,
        build: Callable[[], str | None],
    ) -> None:  # fmt: skip
        self._keeper = keeper
        self._spec = spec
        self._http = http
        self._table = table
        self._directory = directory
        self._build = build
        keeper.attach(spec, self)

    @property
    def run(self) -> tuple[AnySpec, str | None]:
        """What must be equal where a state is loaded."""
        return self._spec, self._build()

    def find(self, trace: Trace) -> FiledPrompt | None:
        """The prompt in a file of which this one has the most."""
        if self._directory is None or not trace.portable or self._keeper.reason(self._spec) is not None:
            return None
        return self._keeper.store.find(self.run, trace)

    async def restore(self, slot: int, prompt: FiledPrompt) -> bool:
        """Load a file into a slot; return whether it is there now."""
        self._keeper.store.used(prompt)
        began = time.monotonic()
        try:
            tokens = await self._act("restore", slot, prompt.path, _RESTORE_SECONDS)
        except (MinerError, OSError, msgspec.DecodeError) as error:
            logger.warning("%s: a prompt was not restored from its file: %s", self._spec.alias, error)
            self._keeper.store.drop(prompt)
            return False
        logger.info("%s: restored a prompt of %d tokens in %.2f s.", self._spec.alias, tokens, time.monotonic() - began)
        return True

    def judge(self, prompt: FiledPrompt, placement: Placement) -> None:
        """Whether the engine has used what was restored, by its reply: if it does not, there is no use in files."""
        usage = placement.usage
        if usage is None or usage.cached_tokens is None:
            return
        expected = min(prompt.tokens, usage.prompt_tokens)
        used = usage.cached_tokens * _READ_AGAIN >= expected
        if self._keeper.strikes(self._spec, None if used else usage.cached_tokens):
            self._keeper.store.drop_run(self.run)

    async def save(self) -> None:
        """Save the idle slots, the one that was used last first."""
        keeper, alias = self._keeper, self._spec.alias
        if self._directory is None:
            keeper.refuse(self._spec, "the engine has no socket")
            return
        began, number, size = time.monotonic(), 0, 0
        for slot, trace in self._table.to_file():
            if keeper.store.has(self.run, trace):
                continue
            need, left = self._table.size_of(trace), SAVE_SECONDS - (time.monotonic() - began)
            if need > left * keeper.speed:
                keeper.report(self._spec, f"writing them all would take more than {SAVE_SECONDS:g} s")
                continue
            try:
                prompt = await keeper.store.create(self.run, trace, need)
            except OSError as error:
                keeper.report(self._spec, str(error))
                continue
            tokens = 0
            try:
                started = time.monotonic()
                tokens = await self._act("save", slot, prompt.path, left)
                await keeper.store.complete(prompt, tokens)
                number, size = number + 1, size + prompt.size
                keeper.speed = (keeper.speed + prompt.size / max(time.monotonic() - started, 0.001)) / 2
            except (MinerError, OSError, msgspec.DecodeError) as error:
                keeper.report(self._spec, str(error))
                if isinstance(error, BackendTimeoutError):  # the disk is slower than it seemed
                    keeper.speed = min(keeper.speed, need / left) / 2
                if keeper.reason(self._spec) is not None:
                    break
            finally:
                if not prompt.tokens:
                    keeper.store.drop(prompt)
        if number:
            seconds = time.monotonic() - began
            logger.info("%s: kept %s (%s) in files, in %.2f s.", alias, _prompts(number), readable(size), seconds)

    async def _act(self, action: str, slot: int, file: Path, seconds: float) -> int:
        """Let the engine write or read a file; return the tokens in it."""
        assert self._directory is not None
        link = self._directory / file.name  # it takes names in its own directory only
        with contextlib.suppress(FileExistsError):
            await asyncio.to_thread(os.symlink, file, link)
        body = msgspec.json.encode({"filename": file.name})
        response = await self._http.request("POST", f"/slots/{slot}?action={action}", body, total=seconds, root=True)
        if response.status != 200:
            why = f"the engine responded to {action} with {response.status}: {parse_error_body(response.body).message}"
            if response.status in (404, 405, 501):
                self._keeper.refuse(self._spec, why)
            raise OSError(why)
        done = msgspec.json.decode(response.body, type=_Done)
        return done.n_saved or done.n_restored


class KeepingProcess(ThreadedProcess):
    """A llama.cpp engine whose prompts outlive its stops.

    Args:
        keeper: saves them.
        threads: those of the next start.
    """

    def __init__(
        self, spec: EngineSpec, launcher: Launcher, *, start_timeout: float, keeper: SlotKeeper,
        threads: Callable[[], EngineThreads],
    ) -> None:  # fmt: skip
        super().__init__(spec, launcher, start_timeout=start_timeout, threads=threads)
        self._keeper = keeper

    @override
    async def ensure_ready(self) -> EngineAddress:
        if self.state == "stopped":
            await asyncio.to_thread(self._keeper.store.prepare)
        return await super().ensure_ready()

    @property
    @override
    def kv_cache(self) -> str | None:
        return self._keeper.status(self.spec)

    @override
    async def before_stop(self) -> None:
        await self._keeper.save(self.spec)


def _prompts(number: int) -> str:
    return "1 prompt" if number == 1 else f"{number} prompts"
