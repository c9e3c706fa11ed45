"""Whether the server of a command knows its models by the names under which requests are sent to it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from miner.config.file.problems import Problem, key_text, shown_path
from miner.config.file.read import LoadedConfig
from miner.core.engine.spec import EngineAddress
from miner.core.http.client import HttpClient
from miner.core.http.errors import Upstream
from miner.core.llms.openai.models import read_models
from miner.core.llms.pool.plan import ModelPlan
from miner.core.models.names import without_tag
from miner.errors import MinerError

logger = logging.getLogger("miner.pool")

_SECONDS = 10.0
_SHOWN = 10


@dataclass(frozen=True, slots=True)
class SentName:
    """One model of the file, as its server is asked for it."""

    model: str
    """Its name in the file."""
    name: str
    """What requests to the server call it."""
    fix: str
    """What to change, and in which line."""


def sent_name(plan: ModelPlan, loaded: LoadedConfig) -> SentName:
    """The name under which a model is sent to its server, which is not an engine of ours."""
    key = ("models", plan.name, "name") if plan.model.name is not None else ("models", plan.name)
    line = loaded.located(Problem("", key)).line
    place = f"{shown_path(loaded.path)}:{line}" if line else shown_path(loaded.path)
    change = "correct" if plan.model.name is not None else "set `name` in"
    return SentName(plan.name, plan.upstream or plan.name, f"{place}: {change} {key_text(key)}")


async def warn_of_unknown_names(
    backend: str, address: EngineAddress, sent: Sequence[SentName], *, any_name: bool
) -> None:
    """Log a warning for each name that the server does not list. It may take the name all the same, as llama-server
    does, so nothing is refused; nor is a server without a list.

    Args:
        any_name: whether the only model of its list is used, whatever it is called.
    """
    http = HttpClient(Upstream(backend, address.base_url, "timeout", _SECONDS), api_key=address.api_key, reuse=False)
    try:
        response = await http.request("GET", "/v1/models", total=_SECONDS, root=True)
        models, one_model = read_models(response.body) if response.status == 200 else ([], False)
    except (MinerError, msgspec.DecodeError):
        return
    finally:
        await http.close()
    if not models or (one_model and any_name):
        return
    known = {without_tag(name).lower() for model in models for name in (model.id, *model.aliases)}
    listed = ", ".join(model.id for model in models[:_SHOWN]) + (", ..." if len(models) > _SHOWN else "")
    for each in sent:
        if without_tag(each.name).lower() not in known:
            logger.warning(
                "The model %r is sent to [backends.%s] as %r, but that server lists: %s. In %s.",
                each.model, backend, each.name, listed, each.fix,
            )  # fmt: skip
