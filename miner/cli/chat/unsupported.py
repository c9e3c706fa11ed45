"""What a model does not support, in the words of a chat: options before it begins, commands in it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from miner.cli.request_options import name_unsupported
from miner.core.llms.contract.capabilities import LENIENT_HINT, refuse_unsupported
from miner.core.llms.fallback import FallbackService
from miner.core.wire import ChatRequest, ModelInfo
from miner.errors import MinerError, UnsupportedFeatureError

if TYPE_CHECKING:
    from miner.core.llms.LLMService import LLMService

_OFF = {"response_format": "/json off", "tools": "/tools off", "tool_choice": "/tools off"}
"""Parameter -> the command that takes it back, where it is not /set."""


async def refuse_options(
    args: argparse.Namespace, request: ChatRequest, service: LLMService, model: ModelInfo | None
) -> None:
    """Refuse the options that the chat's model does not support, as each message with them would be.

    Raises:
        UnsupportedFeatureError: names the option.
    """
    able, where = service.capabilities, service.name
    if model is not None and not isinstance(service, FallbackService):  # of which another one may support it
        known = await service._capabilities_of(model, request)
        if known is not None:
            able, where = known, f"{where}'s model {model.id!r}"
    try:
        refuse_unsupported(request, able, where)
    except UnsupportedFeatureError as error:
        if name_unsupported(error, args):
            raise  # else it is of the conversation that was loaded, where commands can change it


def advice_on(error: MinerError, options: dict[str, object]) -> str | None:
    """The hints of an error for who types in a chat, which has no arguments of a Python function.

    Args:
        options: the parameters of the chat.
    """
    if error.hint != LENIENT_HINT:
        return error.hints_for_people
    param = (getattr(error, "param", None) or "").partition("[")[0].partition(".")[0]
    if param in _OFF:
        return f"{_OFF[param]} takes it back; /model changes to another model."
    if param in options:
        return f"/set {param} default takes it back; /model changes to another model."
    return "/model changes to another model."
