"""Loading the default model when the server starts, so that the first client does not wait for it."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import TYPE_CHECKING

from miner.core.llms.contract.unparsed_reply import LostReplyError, MalformedReplyError
from miner.errors import BackendError, MinerError, ModelNotFoundError, OutputValidationError, UnsupportedFeatureError

if TYPE_CHECKING:
    from miner.core.llms.LLMService import LLMService
    from miner.gateway.state import Gateway

__all__ = ["preload"]

logger = logging.getLogger("miner.gateway")

_LONGEST_PAUSE = 15.0


async def preload(gateway: Gateway) -> None:
    """Make the backend serve one token, again until it does; the gateway is ready then.

    A request that is wrong as such (no default model, a file that is not there) is not tried again: `/readyz` asks
    the backend from then on.
    """
    pause = 0.5
    while True:
        try:
            gateway.loading = "the default model is being loaded"
            await _one_token(gateway.service)
        except (LostReplyError, MalformedReplyError, OutputValidationError):
            break  # whatever a model writes, its engine serves
        except BackendError as error:
            gateway.loading = f"the default model could not be loaded yet: {error.message}"
            logger.warning("The default model could not be loaded: %s Trying again in %.1f s.", error, pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
        except ModelNotFoundError as error:
            health = await gateway.health.current()
            if health or "DEFAULT_MODEL" not in (health.reason or ""):  # else its own warning has said so
                logger.warning("No model was loaded at start: %s", error)
            break
        except MinerError as error:
            logger.warning("No model was loaded at start: %s", error)
            break
        else:
            break
    gateway.loading = None
    if gateway.state == "starting":
        gateway.state = "serving"


async def _one_token(service: LLMService) -> None:
    try:
        async with aclosing(service.stream("Hi", max_tokens=1).batches()) as batches:
            async for _ in batches:
                pass
    except UnsupportedFeatureError:
        if "embeddings" in service.capabilities:
            await service.embed("Hi")  # a model that only makes embeddings
        # Else a backend that cannot be asked for one token alone: it loads nothing that we know of.
