"""What the pool says of all its models and backends. A backend that does not answer soon is shown without details."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping

from msgspec.structs import replace

from miner.core.llms.contract.server_load import ServerLoad
from miner.core.llms.pool.holder import Holder
from miner.core.llms.pool.members import Members
from miner.core.llms.pool.table import ServedModel
from miner.core.model_card import ModelState, RunningModel, state_of
from miner.core.wire import EngineStatus, Health, ModelInfo
from miner.errors import MinerError

_SECONDS = 2.0
"""Seconds that a list waits for a server."""
_FILE_SECONDS = 30.0
"""The same for what is read from files here, on a busy machine."""


async def list_models(members: Members) -> list[ModelInfo]:
    """The models of the table that are listed, the default first, and those that backends expose."""
    table = members.table
    listed = [served for served in table.models.values() if served.model.listed]
    listed.sort(key=lambda served: served.name != table.default)
    own, others = await asyncio.gather(
        asyncio.gather(*map(_info, listed)), asyncio.gather(*map(_models_of, members.exposed()))
    )
    exposed = {info.id: info for infos in others for info in infos if table.find(info.id) is None}
    return [*own, *exposed.values()]


def _seconds_for(holder: Holder) -> float:
    return _FILE_SECONDS if holder.plan.runs_engines else _SECONDS


async def _info(served: ServedModel) -> ModelInfo:
    inner: ModelInfo | None = None
    if not served.holder.answers:
        return served.info(None)
    try:
        async with asyncio.timeout(_seconds_for(served.holder)), served.holder.use(queued=False) as service:
            inner = await service.resolve_model(served.upstream)
    except (MinerError, TimeoutError):
        pass
    return served.info(inner)


async def _models_of(holder: Holder) -> list[ModelInfo]:
    if not holder.answers:
        return []
    try:
        async with asyncio.timeout(_seconds_for(holder)), holder.use(queued=False) as service:
            return await service.list_models()
    except (MinerError, TimeoutError):
        return []


async def running_models(members: Members) -> list[RunningModel]:
    """The models that are in memory, under each name that the table has for them."""
    running: list[RunningModel] = []
    for holder in members.holders():
        own = list(members.served_by(holder))
        if (taken := holder.taken()) is not None:
            running += [replace(taken, info=served.info(None)) for served in own]
            continue
        if not holder.answers:
            continue
        try:
            async with asyncio.timeout(_seconds_for(holder)), holder.use(queued=False) as service:
                found = await service.running_models()
        except (MinerError, TimeoutError):
            continue
        for each in found:
            names = (None, each.info.id, *each.info.aliases)
            running += [replace(each, info=served.info(each.info)) for served in own if served.upstream in names]
    return running


async def model_states(members: Members) -> list[ModelState]:
    """All models of the table and what they are doing, the default first, then those that backends expose."""
    table = members.table
    served = sorted(table.models.values(), key=lambda each: each.name != table.default)
    engines = {engine.model: engine for engine in members.engine_status()}
    states, others = await asyncio.gather(
        asyncio.gather(*(_state(each, engines, table.default) for each in served)),
        asyncio.gather(*map(_models_of, members.exposed())),
    )
    exposed = [
        state_of(info, None, backend=holder.plan.backend, kind=holder.plan.kind, state="remote")
        for holder, infos in zip(members.exposed(), others, strict=True)
        for info in infos
        if table.find(info.id) is None
    ]
    return [*states, *exposed]


async def _state(served: ServedModel, engines: Mapping[str, EngineStatus], default: str | None) -> ModelState:
    holder, problem, inner = served.holder, None, None
    name = holder.plan.engine
    engine = engines.get(name) if name is not None else None
    if holder.answers or (engine is not None and engine.state == "ready"):
        try:
            async with asyncio.timeout(_seconds_for(holder)), holder.use(queued=False) as service:
                inner = await service.resolve_model(served.upstream)
        except MinerError as error:
            problem = error.message
        except TimeoutError:
            problem = f"it has not answered within {_seconds_for(holder):g} s"
    engine = None if engine is None else holder.with_slots(engine)
    state = state_of(
        served.info(inner), engine, backend=holder.plan.backend, kind=holder.plan.kind,
        description=served.model.description, default=served.name == default, listed=served.model.listed,
        aliases=served.model.aliases,
    )  # fmt: skip
    state.pinned = state.pinned or served.model.pin
    if name is None:
        state.state, state.queued, state.slots_busy = "remote", holder.waiting, holder.calls - holder.waiting
    if problem is not None and state.state in ("remote", "unloaded"):
        state.state, state.reason = "unavailable", problem
    return state


async def server_loads(members: Members) -> list[ServerLoad]:
    """What the servers behind say of their load, under each name that the table has for their models."""

    async def loads_of(holder: Holder) -> list[ServerLoad]:
        try:
            async with asyncio.timeout(_SECONDS), holder.use(queued=False) as service:
                return await service.server_loads()
        except (MinerError, TimeoutError):
            return []

    holders = [holder for holder in members.holders() if holder.answers and not holder.plan.runs_engines]
    found = await asyncio.gather(*map(loads_of, holders))
    named: list[ServerLoad] = []
    for holder, loads in zip(holders, found, strict=True):
        own = list(members.served_by(holder))
        for load in loads:
            served = [each.name for each in own if each.upstream in (None, load.model) or load.model is None]
            named += [dataclasses.replace(load, model=name) for name in served or filter(None, [load.model])]
    return named


async def health_of(members: Members) -> Health:
    """Ready if any backend is; the reason is that of those that are not."""
    holders = members.holders()
    if not holders:
        path = members.loaded.path
        return Health(state="unavailable", reason=f"{path} has no models.", hint="Add one to [models].")
    checks = await asyncio.gather(*(holder.health() for holder in holders))
    ready = [check for check in checks if check]
    reasons = dict.fromkeys(
        f"{holder.plan.alias or holder.plan.backend}: {check.reason}"
        for holder, check in zip(holders, checks, strict=True)
        if not check
    )
    first = ready[0] if ready else checks[0]
    return Health(
        state=first.state,
        reason="; ".join(reasons) or None,
        hint=None if ready else first.hint,
        models=list(members.table.models),
        engines=[engine for check in checks for engine in check.engines],
        retry_after=None if ready else first.retry_after,
    )
