"""Which backend serves the model of a request, for what depends on it before the request is sent."""

from __future__ import annotations

import re
from contextlib import suppress

from miner.core.llms.contract.backend import Backend
from miner.core.llms.LLMService import LLMService
from miner.errors import MinerError

_FILE = re.compile(r"^[/\\~.]|^[a-z]:[/\\]|://|\\|\.\.|\.gguf(:latest)?$", re.IGNORECASE)


def could_be_a_file(name: str) -> bool:
    """Whether a name could be a path or a URL, which some backends would open."""
    return _FILE.search(name) is not None


async def backend_of(service: LLMService, name: str | None) -> Backend:
    """The backend of a name. A model that stands in no table is asked for at the backends that show theirs: without
    that the service would speak for all of them.
    """
    in_table = service.config_state is None or name is None or bool(service.rules_of(name).names)
    if not in_table and name and service.backend_of(name) is service and not could_be_a_file(name):
        with suppress(MinerError):  # the request itself says what is wrong
            await service.resolve_model(name)
    return service.backend_of(name)
