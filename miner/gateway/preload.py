"""Loading the default model when the server starts, so that the first client does not wait for it."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing

from miner.core.llms.contract.unparsed_reply import LostReplyError, MalformedReplyError
from miner.core.llms.LLMService import LLMService
from miner.errors import BackendError, MinerError, ModelNotFoundError, OutputValidationError, UnsupportedFeatureError
from miner.gateway.state import Gateway

logger = logging.getLogger("miner.gateway")

_MAX_PAUSE = 15.0


async def preload(gateway: Gateway) -> None:
    """Let the backend generate one token, with retries until it does; the gateway is ready then.

    A RequestError (no default model, a missing file) is not retried: from then on `/readyz` checks the backend.
    """
    pause = 0.5
    while True:
        try:
            gateway.loading = "the default model is being loaded"
            await _one_token(gateway.service)
        except (LostReplyError, MalformedReplyError, OutputValidationError):
            break  # whatever the model generates, its engine works
        except BackendError as error:
            gateway.loading = f"the default model could not be loaded yet: {error.message}"
            logger.warning("The default model could not be loaded: %s Retrying in %.1f s.", error, pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _MAX_PAUSE)
        except ModelNotFoundError as error:
            health = await gateway.health.current()
            if health or "DEFAULT_MODEL" not in (health.reason or ""):  # else the backend has logged a warning
                logger.warning("No model was loaded at start: %s", error)
            break
        except MinerError as error:
            logger.warning("No model was loaded at start: %s", error)
            break
        else:
            break
    gateway.loading = None
    if gateway.phase == "starting":
        gateway.phase = "serving"


async def _one_token(service: LLMService) -> None:
    try:
        async with aclosing(service.stream("Hi", max_tokens=1).batches()) as batches:
            async for _ in batches:
                pass
    except UnsupportedFeatureError:
        if "embeddings" in service.capabilities:
            await service.embed("Hi")  # a model that only makes embeddings
        # Else a backend that cannot generate a single token: it loads nothing.
