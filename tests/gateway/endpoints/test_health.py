"""`/readyz` and what a model writes."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from miner.core.llms.contract.unparsed_reply import LostReplyError, MalformedReplyError
from miner.core.llms.llm_llamacpp import LlamaCppService
from miner.errors import OutputValidationError
from tests.gateway.serving import Parrot, config, serving
from tests.paths import TEMPLATES


async def ready(served):
    """Wait until it is, within a minute."""
    async with asyncio.timeout(60), aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"{served.url}/readyz") as answer:
                if answer.status == 200:
                    return
            await asyncio.sleep(0.05)


async def test_readiness_needs_a_key_once_there_are_keys():
    key = "0123456789abcdef"
    async with (
        serving(Parrot(config(default_model="m")), api_keys=key) as served,
        aiohttp.ClientSession() as session,
    ):
        for path, headers, status in [("/livez", {}, 200), ("/readyz", {}, 401), ("/readyz", {"x-api-key": key}, 200)]:
            async with session.get(served.url + path, headers=headers) as answer:
                assert answer.status == status, path


@pytest.mark.parametrize("kind", [MalformedReplyError, LostReplyError, OutputValidationError])
async def test_a_reply_that_cannot_be_parsed_shows_that_the_engine_serves(kind):
    class Garbled(Parrot):
        async def generate(self, prompt, model=None, max_tokens=None, temperature=None, top_p=None):
            raise kind("The model wrote something else.")

    async with serving(Garbled(config()), serve_preload=True) as served:
        await ready(served)


@pytest.mark.engine
async def test_a_model_that_cannot_write_its_templates_format_is_ready():
    service = LlamaCppService(
        config(llamacpp_chat_template=str(TEMPLATES / "recipient.jinja"), llamacpp_threads=1, llamacpp_parallel=1)
    )
    async with serving(service, serve_preload=True) as served:
        await ready(served)
        body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{served.v1}/chat/completions", json=body) as answer,
        ):
            assert answer.status == 200, await answer.text()
