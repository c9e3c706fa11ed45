"""Pulling a GGUF model from a hub in a thread, with Ollama's pull events."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from miner.config.secrets import secret_text
from miner.core.llms.llamacpp.models import models_directory
from miner.core.llms.llamacpp.progress import reports_until_done
from miner.core.models.hub.client import Hub
from miner.core.models.hub.download import PullProgress
from miner.core.models.hub.pull import pull
from miner.core.models.names import parse_ref
from miner.core.models.resolve import resolve
from miner.errors import MinerError, ModelNotFoundError

if TYPE_CHECKING:
    from miner.config.config import MinerConfig


class _StoppedError(MinerError):
    """The caller stopped iterating over this pull."""


def hub_of(settings: MinerConfig) -> Hub:
    """The hub that the settings name, with their token.

    Raises:
        ConfigError: HF_ENDPOINT or HF_TOKEN cannot be used.
    """
    token = secret_text(settings.hf_token)
    return Hub(settings.hf_endpoint, token.strip() if token else None)


async def pull_from_hub(name: str, settings: MinerConfig) -> AsyncGenerator[dict[str, Any], None]:
    """Yield the events of a model's pull. A local name (without a hub) needs no download.

    Raises:
        InvalidRequestError: `name` is neither.
        MinerError: what `models.pull.pull` raises.
    """
    ref = parse_ref(name)
    if ref is None and await asyncio.to_thread(_is_here, name, settings):
        yield {"status": "success"}
        return
    directory, hub = models_directory(settings), hub_of(settings)
    loop, reports, left = asyncio.get_running_loop(), asyncio.Queue[PullProgress](), threading.Event()

    def report(progress: PullProgress) -> None:
        if left.is_set():
            raise _StoppedError(f"The pull of {name!r} was stopped.")
        loop.call_soon_threadsafe(reports.put_nowait, progress)

    if ref is not None:
        yield {"status": "pulling manifest"}
    work = asyncio.ensure_future(asyncio.to_thread(pull, name, directory, hub=hub, on_progress=report))
    # One bar for all files of the model: clients distinguish bars by the digest.
    digest = f"sha256:{hashlib.sha256(name.encode()).hexdigest()}"
    try:
        async with aclosing(reports_until_done(work, reports)) as news:
            async for progress in news:
                yield _event(progress, digest)
    finally:
        left.set()
    await work
    yield {"status": "success"}


def _is_here(name: str, settings: MinerConfig) -> bool:
    # The name may come from a client, who must not reach for files.
    try:
        resolve(name, model_path=settings.model_path, models_dir=models_directory(settings), allow_paths=False)
    except ModelNotFoundError:
        return False
    return True


def _event(progress: PullProgress, digest: str) -> dict[str, Any]:
    if progress.stage == "waiting":
        return {"status": "waiting for another download of the same file"}
    file = progress.file.rpartition("/")[2]
    status = f"verifying {file}" if progress.stage == "checking" else f"pulling {file}"
    return {"status": status, "digest": digest, "total": progress.total, "completed": progress.done}
