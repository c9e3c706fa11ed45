"""CommandProcess: a command as an engine, which a vLLM may be put to sleep instead of being stopped.

Facts are those of vLLM 0.32 (`--enable-sleep-mode`, and VLLM_SERVER_DEV_MODE=1 for the routes): `POST /sleep?level=1`
moves the weights to main memory and drops the KV cache; level 2 drops the weights, too, so that they are loaded again
into the memory that `/wake_up?tags=weights` has taken before `/wake_up?tags=kv_cache` makes it serve.
"""

from __future__ import annotations

import asyncio
import http.client
import json
from typing import Any

from miner.core._typing import override
from miner.core.engine.command import CommandLauncher, CommandSpec
from miner.core.engine.process import EngineProcess
from miner.core.engine.spec import EngineAddress, EngineState
from miner.errors import EngineStartError

_SLEEP_SECONDS = 120.0
_WAKE_SECONDS = 600.0
"""For all steps; level 2 reads the weights from disk."""
_RELOAD = {"method": "reload_weights"}


class CommandProcess(EngineProcess):
    """A command, supervised as other engines are."""

    def __init__(self, spec: CommandSpec, *, start_timeout: float, stop_grace: float) -> None:
        super().__init__(spec, CommandLauncher(), start_timeout=start_timeout, stop_grace=stop_grace)
        self.command = spec
        self._asleep_at: EngineAddress | None = None
        """The start that sleeps."""

    @property
    @override
    def state(self) -> EngineState:
        state = super().state
        return "sleeping" if state == "ready" and self._asleep_at == self._ready_at else state

    @property
    def _ready_at(self) -> EngineAddress | None:
        where = self._run.ready.value if self._run is not None else None
        return where if isinstance(where, EngineAddress) else None

    @property
    @override
    def can_sleep(self) -> bool:
        return self.command.sleep is not None and self.state == "ready"

    @override
    async def sleep(self) -> None:
        address = self._ready_at
        if address is None or self.command.sleep is None:
            return
        await self._post(address, f"/sleep?level={self.command.sleep}", timeout=_SLEEP_SECONDS)
        self._asleep_at = address

    @override
    async def ensure_ready(self) -> EngineAddress:
        address = await super().ensure_ready()
        if address == self._asleep_at:
            await self._wake(address)
        return address

    async def _wake(self, address: EngineAddress) -> None:
        try:
            if self.command.sleep == 2:
                await self._post(address, "/wake_up?tags=weights", timeout=_WAKE_SECONDS)
                await self._post(address, "/collective_rpc", _RELOAD, timeout=_WAKE_SECONDS)
                await self._post(address, "/wake_up?tags=kv_cache", timeout=_WAKE_SECONDS)
            else:
                await self._post(address, "/wake_up", timeout=_WAKE_SECONDS)
        except EngineStartError as error:
            self.fail(
                f"it did not wake up and has been killed ({error.message.removesuffix('.')})", error.operator_hint
            )
            raise await self._not_awake(address) from error
        self._asleep_at = None

    async def _not_awake(self, address: EngineAddress) -> EngineStartError:
        crash = await self.wait_for_exit(address)
        return EngineStartError(
            crash.message, backend=self.spec.backend, log_tail=crash.log_tail, operator_hint=crash.operator_hint,
            retryable=True,
        )  # fmt: skip

    async def _post(self, address: EngineAddress, path: str, body: Any = None, *, timeout: float) -> None:
        """POST without a body, or with one of JSON.

        Raises:
            EngineStartError: the status is not 200, or there was no response.
        """
        try:
            status, text = await asyncio.to_thread(_post, address, path, body, timeout)
        except (OSError, http.client.HTTPException) as error:
            raise self._refused(f"POST {path} failed: {str(error) or type(error).__name__}") from error
        if status != 200:
            raise self._refused(f"POST {path} returned {status} {text}".rstrip())

    def _refused(self, why: str) -> EngineStartError:
        hint = "Sleep needs vLLM with --enable-sleep-mode on a GPU; see its log lines, or remove `sleep`."
        return EngineStartError(f"{why}.", backend=self.spec.backend, log_tail=self.log_tail, operator_hint=hint)


def _post(address: EngineAddress, path: str, body: Any, timeout: float) -> tuple[int, str]:
    connection = http.client.HTTPConnection(address.base_url.removeprefix("http://"), timeout=timeout)
    headers = {"Authorization": f"Bearer {address.api_key}"} if address.api_key else {}
    data = b""
    if body is not None:
        headers["Content-Type"], data = "application/json", json.dumps(body).encode()
    try:
        connection.request("POST", path, data, headers)
        response = connection.getresponse()
        return response.status, response.read(500).decode("utf-8", "replace")
    finally:
        connection.close()
