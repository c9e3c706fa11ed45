"""The server at --url of a command."""

from __future__ import annotations

from miner.cli.node import KEY_SETTING
from miner.core._typing import override
from miner.core.llms.llm_openai import OpenAIAPIService
from miner.core.llms.openai.models import once_each
from miner.core.wire import ModelInfo


class URLService(OpenAIAPIService):
    """Any server that speaks OpenAI's API, `miner serve` too; errors name the command's options."""

    name = "server"
    unreachable_hint = "Is a server there? `curl {url}/models` must respond; `miner serve` starts one."
    key_setting = KEY_SETTING
    address_setting = "--url"

    @override
    async def list_models(self) -> list[ModelInfo]:
        return once_each(await super().list_models())
