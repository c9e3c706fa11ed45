"""The slots of a running engine: a request holds the one that `SlotTable` chooses, after what that takes."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from miner.core.http.client import HttpClient, HttpResponse
from miner.core.llms.llamacpp.slot_keeper import FiledSlots
from miner.core.llms.llamacpp.slot_store import FiledPrompt
from miner.core.llms.llamacpp.slots import Placement, SlotTable, Step, trace_of
from miner.core.models.memory.kv_cache import padded
from miner.errors import MinerError

logger = logging.getLogger("miner.slots")


class _Tokens(msgspec.Struct):
    tokens: list[int]


_TEXT = "~"
"""Its token fills the prompts of steps: one with which no prompt begins, since an engine keeps a slot whose prompt is
the beginning of the next one."""
_TIMEOUT = 30.0
"""Seconds for a step: it waits for the batch that is being computed, and copies a prompt."""


class EngineSlots:
    """The slots of one run of an engine.

    Args:
        ctx_size: tokens of a slot.
        filed: the prompts of earlier runs that are in files.
    """

    def __init__(self, http: HttpClient, table: SlotTable, ctx_size: int, filed: FiledSlots | None = None) -> None:
        self._http = http
        self._filed = filed
        self.table = table
        self._too_many = padded(ctx_size) + 1
        self._token: int | None = None

    @asynccontextmanager
    async def hold(
        self, body: dict[str, Any], *, conversation: bool, resumed: Placement | None
    ) -> AsyncIterator[Placement]:
        """Hold a slot for a request, which is named in its body.

        Args:
            conversation: the request is likely to be continued.
            resumed: the slot of the request that this one completes.
        """
        wanted, filed, continued = body.get("id_slot"), None, False
        if resumed is not None:
            placement = self.table.resume(resumed)
        else:
            trace = trace_of(body, conversation=conversation)
            if self._filed is not None and body.get("cache_prompt") is not False:
                filed = self._filed.find(trace)
                continued = filed is not None and trace.continues(filed.trace)
            placement = self.table.place(
                trace, wanted if isinstance(wanted, int) else None, filed.trace if filed is not None else None
            )
        try:
            for step in placement.steps:
                if step is Step.RESTORE:
                    filed = await self._restore(placement, filed)
                else:
                    await self._take(step, placement.slot)
            body["id_slot"] = placement.slot
            yield placement
        finally:
            if self._filed is not None and filed is not None and continued and Step.RESTORE in placement.steps:
                self._filed.judge(filed, placement)
            body.pop("id_slot", None)
            if wanted is not None:
                body["id_slot"] = wanted
            self.table.release(placement)

    async def _restore(self, placement: Placement, filed: FiledPrompt | None) -> FiledPrompt | None:
        """Load a prompt from its file; None if that failed: then the request has all to read."""
        restored = False
        try:
            if self._filed is not None and filed is not None:
                restored = await self._filed.restore(placement.slot, filed)
        finally:
            if not restored:
                self.table.not_restored(placement)
        return filed if restored else None

    async def _take(self, step: Step, slot: int) -> None:
        """Send one step. Where it fails, the request only has more to read."""
        try:
            if step is Step.ERASE:
                status, expected = (await self._post(f"/slots/{slot}?action=erase", {})).status, 200
            else:
                count, expected = (self._too_many, 400) if step is Step.SAVE else (1, 200)
                prompt = [await self._filler()] * count
                body = {"prompt": prompt, "id_slot": slot, "n_predict": 0}
                status = (await self._post("/completion", body)).status
        except (MinerError, msgspec.DecodeError) as error:
            logger.debug("Slot %d: %s failed: %s", slot, step.value, error)
            return
        if status != expected:
            logger.debug("Slot %d: %s: unexpected status %d.", slot, step.value, status)

    async def _filler(self) -> int:
        if self._token is None:
            response = await self._post("/tokenize", {"content": _TEXT, "add_special": False})
            self._token = msgspec.json.decode(response.body, type=_Tokens).tokens[-1]
        return self._token

    async def _post(self, path: str, body: dict[str, Any]) -> HttpResponse:
        timeout = min(_TIMEOUT, self._http.upstream.read_timeout)
        return await self._http.request("POST", path, msgspec.json.encode(body), total=timeout, root=True)
