"""Loading models when the server starts, so that the first client does not wait for them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import aclosing

from miner.core.llms.contract.unparsed_reply import LostReplyError, MalformedReplyError
from miner.core.llms.LLMService import LLMService
from miner.errors import (
    BackendError,
    EngineStoppedError,
    MinerError,
    ModelNotFoundError,
    OutputValidationError,
    UnsupportedFeatureError,
)
from miner.gateway.state import Gateway

logger = logging.getLogger("miner.gateway")

_MAX_PAUSE = 15.0


async def preload(gateway: Gateway) -> None:
    """Load the models that the service names, else the default one, in their order, with retries. The gateway is ready
    when each was tried and one is loaded, or none is left to try.

    A RequestError (no default model, a missing file) is not retried: from then on `/readyz` checks the backend.
    """
    pause, left = 0.5, list(gateway.service.preloaded)
    while left:
        failed = [name for name in left if not await _load(gateway, name, pause)]
        if len(failed) < len(left):
            gateway.start_serving()
        left = failed
        if left:
            await asyncio.sleep(pause)
            pause = min(pause * 2, _MAX_PAUSE)
    gateway.start_serving()


async def preload_new(gateway: Gateway, names: Sequence[str]) -> None:
    """Load models that have come while the gateway serves; one that fails is loaded by its first request."""
    for name in names:
        await _load(gateway, name, None)


async def _load(gateway: Gateway, name: str | None, pause: float | None) -> bool:
    """Let the backend generate one token; return whether there is nothing left to try.

    Args:
        name: None for the default model.
        pause: seconds until it is tried again, for the log; None: it is not.
    """
    model = "the default model" if name is None else f"the model {name!r}"
    capitalized = f"T{model[1:]}"
    if gateway.phase == "starting":
        gateway.loading = f"{model} is being loaded"
    try:
        await _one_token(gateway.service, name)
    except (LostReplyError, MalformedReplyError, OutputValidationError):
        pass  # whatever the model generates, its engine works
    except EngineStoppedError:
        logger.warning("%s was stopped before it was loaded: its first request loads it.", capitalized)
    except BackendError as error:
        if gateway.phase == "starting":
            gateway.loading = f"{model} could not be loaded yet: {error.message}"
        again = "" if pause is None else f" Retrying in {pause:.1f} s."
        logger.warning("%s could not be loaded: %s%s", capitalized, error, again)
        return pause is None
    except ModelNotFoundError as error:
        health = await gateway.health.current()
        if name is not None or health or "DEFAULT_MODEL" not in (health.reason or ""):  # the backend has logged that
            logger.warning("%s: %s", _not_loaded(name), error)
    except MinerError as error:
        logger.warning("%s: %s", _not_loaded(name), error)
    return True


def _not_loaded(name: str | None) -> str:
    return "No model was loaded at start" if name is None else f"The model {name!r} was not loaded at start"


async def _one_token(service: LLMService, name: str | None) -> None:
    try:
        async with aclosing(service.stream("Hi", model=name, max_tokens=1).batches()) as batches:
            async for _ in batches:
                pass
    except UnsupportedFeatureError:
        if name is not None:
            await service.load_model(name)  # a model for embeddings or ranks
        elif "embeddings" in service.backend_of(None).capabilities:
            await service.embed("Hi")
        # Else a backend that cannot generate a single token: it loads nothing.
