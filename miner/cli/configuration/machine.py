"""What this machine has to serve with: engines, models, running servers, GPUs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from miner.cli.model_store import Row
from miner.config.config import MinerConfig

_SECONDS = 3.0
"""Seconds for the answer of a server."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs."""

    kind: str
    url: str
    models: list[str]


@dataclass(frozen=True, slots=True)
class Machine:
    """What was found."""

    engine: str | None
    """The llama.cpp that starts engines."""
    why_no_engine: str | None
    models: list[Row]
    """Local models that can be used, those of the models directory and the demo model."""
    servers: list[Server]
    gpus: list[str]
    free: int | None
    """Bytes of free main memory."""


def look(settings: MinerConfig) -> Machine:
    """Look at this machine; a server is asked for its models, and nothing is started."""
    from miner.cli.local_store import LocalStore
    from miner.core.engine.launchers import find_launcher
    from miner.core.models.memory.available import available_memory
    from miner.core.models.memory.gpus import find_gpus
    from miner.core.models.memory.verdict import readable
    from miner.errors import EngineStartError

    engine = reason = None
    try:
        engine = find_launcher(settings.llamacpp_server).name
    except EngineStartError as error:
        reason = str(error)
    rows = [row for row in LocalStore(settings).rows() if row.problem is None and row.source != "created"]
    gpus = [f"{gpu.kind}, {readable(gpu.total)}" for gpu in find_gpus()]
    return Machine(engine, reason, rows, asyncio.run(_servers(settings)), gpus, available_memory().available)


async def _servers(settings: MinerConfig) -> list[Server]:
    """The servers of the settings that run: Ollama, vLLM, a llama-server."""
    wanted = [("ollama", settings.ollama_base_url), ("vllm", settings.vllm_api_base)]
    if settings.llamacpp_api_base is not None:
        wanted.append(("llamacpp", settings.llamacpp_api_base))
    return [found for found in await asyncio.gather(*(_server(*each, settings) for each in wanted)) if found]


async def _server(kind: str, url: str, settings: MinerConfig) -> Server | None:
    from miner.core.llms.registry import load_backend

    config = settings.model_copy(update={"default_model": None, "max_retries": 0})
    async with load_backend(kind, config).service(config) as service:
        try:
            health = await asyncio.wait_for(service.health(), _SECONDS)
        except TimeoutError:
            return None
    return Server(kind, url, health.models) if health or health.models else None
