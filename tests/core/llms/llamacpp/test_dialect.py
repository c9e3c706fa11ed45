"""What a llama.cpp server is asked, to the field."""

from __future__ import annotations

from typing import Any

import pytest

from miner.config.config import MinerConfig
from miner.core.llms.llamacpp.dialect import Props
from miner.core.llms.llm_llamacpp import LlamaCppService
from tests.servers.openai_stub import StubServer


async def asked(**options: Any) -> dict[str, Any]:
    """The body that this generation is sent with."""
    async with (
        StubServer() as server,
        LlamaCppService(MinerConfig(_env_file=None, llamacpp_api_base=server.v1)) as service,
    ):
        await service.generate("hi", "m", **options)
        return server.bodies[-1]


@pytest.mark.parametrize(
    ("options", "top_k"),
    [
        ({}, 1000),
        ({"top_p": 0.5, "temperature": 2}, 1000),
        ({"temperature": 0}, 1),
        ({"top_p": 1.0}, 0),
        ({"top_p": 1.0, "temperature": 0}, 1),
        ({"top_k": 0}, 0),
        ({"top_k": 40, "temperature": 0}, 40),
    ],
)
async def test_no_more_of_the_vocabulary_is_sorted_than_is_needed(options: dict[str, Any], top_k: int):
    assert (await asked(**options))["top_k"] == top_k


async def test_what_is_not_given_is_neutral():
    body = await asked()
    neutral = {"min_p": 0.0, "typical_p": 1.0, "repeat_penalty": 1.0, "dry_multiplier": 0.0, "xtc_probability": 0.0}
    assert {name: body[name] for name in neutral} == neutral


@pytest.mark.parametrize(
    ("template", "reasons"),
    [
        ("{% if enable_thinking %}<think>\n{% endif %}", True),
        ("{{ message.content.split('</think>')[-1] }}", True),
        ("{%- if thinking is defined and thinking %}x{% endif %}", True),
        ("[THINK]{{ message.thinking }}[/THINK]", True),
        ("<|channel|>analysis<|message|>{{ reasoning_effort }}", True),
        ("{{ message.reasoning_content }}", True),
        ("<seed:think>{{ x }}</seed:think>", True),
        ("Document your reasoning process. You may think before you act, without overthinking.", False),
        ("You may provide optional reasoning for your function call in natural language", False),
        ("{{ message.content }}", False),
    ],
)
def test_a_model_reasons_whose_template_has_a_marker_or_a_switch(template: str, reasons: bool):
    able = Props.guess(template=template, vision=False).capabilities(embeds=False, ranks=False, fills=False)
    assert ("reasoning" in able) is reasons
