"""`/admin/node`: what this server is: its version, its settings in force, its memory, and since when it runs."""

from __future__ import annotations

import asyncio
import os
import platform
import time
from typing import Any

import msgspec
from aiohttp import web

from miner import __version__
from miner.core.models.memory.available import available_memory
from miner.gateway.apis.openai.errors import openai_error
from miner.gateway.context import RequestContext, Route
from miner.gateway.generation import json_response


async def node(context: RequestContext) -> web.StreamResponse:
    """Tell what this server is."""
    gateway = context.gateway
    memory = await asyncio.to_thread(available_memory, gpus=False)
    content: dict[str, Any] = {
        "version": __version__, "python": platform.python_version(), "platform": platform.platform(),
        "pid": os.getpid(), "phase": gateway.phase, "started_at": gateway.created,
        "uptime": round(time.time() - gateway.created, 1), "backends": gateway.service.backend_names,
        "engines": await asyncio.to_thread(_engines), "memory_total": memory.total,
        "memory_available": memory.available,
        "requests_running": len(gateway.running), "requests_waiting": gateway.queue.waiting
        + gateway.queue.waiting_at_backend,
    }  # fmt: skip
    return json_response(context, msgspec.json.encode(content))


def _engines() -> dict[str, str]:
    from miner.core.engine.packages import installed_engines

    return installed_engines()


NODE = [Route("GET", "/admin/node", node, "admin", openai_error, "What this server is, and since when it runs")]
"""Only for keys with the admin right."""
