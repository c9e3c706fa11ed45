"""Every chat template that llama.cpp is tested with, over the demo model (`-m templates`).

`MINER_CHAT_TEMPLATES` names the directory; `scripts/chat_templates.py` makes it. Each template is tried with twenty-two
conversations that are rendered and not generated, so that all of them take two minutes.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from miner.config.config import MinerConfig
from miner.core.llms.contract.resolution import resolve
from miner.core.llms.llm_llamacpp import LlamaCppService
from miner.core.wire import Timings
from miner.errors import RequestError
from tests.servers.llama_runner import demo_model
from tests.templates.conversations import CONVERSATIONS

pytestmark = pytest.mark.templates

TEMPLATES = sorted(Path(os.environ.get("MINER_CHAT_TEMPLATES", "")).glob("*.jinja")) or [Path("missing")]

NO_GRAMMAR = "llama.cpp enforces no JSON schema in the format of its chat template"
REFUSED: dict[tuple[str, str], str] = {
    (template, "tools, required"): NO_GRAMMAR
    for template in (
        "GigaChat3-10B-A1.8B", "Kimi-K2-Instruct", "Kimi-K2-Thinking", "Kimi-K3", "meetkai-functionary-medium-v3.2",
        "moonshotai-Kimi-K2",
    )
}  # fmt: skip
"""All that is refused, with a word of the reason."""

IN_ORDER = ("a system message, later", "a system message, last", "two users in a row", "a user after a result")
"""Where a word that stood elsewhere than its message would cost the KV cache. (Mistral's templates move the first
system message themselves.)
"""

NO_TEXT_BESIDE_CALLS = ("Mistral-Small-3.2-24B-Instruct-2506", "mistralai-Mistral-Nemo-Instruct-2407")
"""Formats that have no place for it: a call stands alone, and between two texts of the assistant is one of the user."""

_WORD = re.compile(r"zq[a-z]+")


@asynccontextmanager
async def served(template: Path, **settings: Any) -> AsyncIterator[LlamaCppService]:
    assert template.name != "missing", "set MINER_CHAT_TEMPLATES to what scripts/chat_templates.py prints"
    config = MinerConfig(
        model_path=str(demo_model()), llamacpp_chat_template=str(template), llamacpp_threads=1,
        llamacpp_parallel=1, llamacpp_ctx_size=4096, **settings,
    )  # fmt: skip
    async with LlamaCppService(config) as service:
        yield service


async def prompt_of(service: LlamaCppService, arguments: dict[str, Any]) -> str:
    """The text that the model would read."""
    request = service._request({}, **arguments)
    request = await resolve(service, request)
    timings = Timings()
    async with service._servers.slot(request, None, timings) as server:
        generation = service._generation(request, server, timings)
        prepared = await generation._prepare(stream=False)
        while True:
            status, text = await server.apply_template(prepared.body)
            if status == 200:
                return text
            raw = msgspec.json.encode({"error": {"message": text}})
            prepared = await generation._after_refusal(prepared, request, status, raw)


def words_of(messages: list[dict[str, Any]]) -> list[str]:
    return _WORD.findall(msgspec.json.encode(messages).decode())


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
async def test_all_conversations_are_said_or_refused_with_the_reason(template):
    async with served(template) as service:
        for name, arguments in CONVERSATIONS.items():
            reason = REFUSED.get((template.stem, name))
            if reason is not None:
                with pytest.raises(RequestError, match=reason) as caught:
                    await prompt_of(service, arguments)
                assert caught.value.http_status == 400
                print(f"400: {template.stem}: {name}: {caught.value}")
                continue
            prompt = await prompt_of(service, arguments)
            words = words_of(arguments["messages"])
            if template.stem in NO_TEXT_BESIDE_CALLS:
                words = [word for word in words if word != "zqtext"]
            assert set(words) <= set(_WORD.findall(prompt)), (name, prompt)
            if arguments.get("tool_choice") != "none" and "tools" in arguments:
                assert "zqtool" in prompt, name  # the model is told of its tools
            if name in IN_ORDER:
                places = [prompt.rindex(word) for word in words if word != "zqrule"]
                assert places == sorted(places), (name, prompt)


def test_little_is_refused():
    assert len(REFUSED) <= 20


FAMILIES = (
    "Apertus-8B-Instruct", "CohereForAI-c4ai-command-r7b-12-2024-tool_use", "HuggingFaceTB-SmolLM3-3B",
    "Kimi-K2-Instruct", "LFM2-8B-A1B", "Mistral-Small-3.2-24B-Instruct-2506", "Qwen3.5-4B", "deepseek-ai-DeepSeek-V3.1",
    "google-gemma-2-2b-it", "meetkai-functionary-medium-v3.2", "meta-llama-Llama-3.1-8B-Instruct", "muse-glimmer",
    "openai-gpt-oss-120b",
)  # fmt: skip
"""One of each that is handled in a way of its own, here or in llama.cpp."""
GENERATED = ("several system messages, first", "a call and its result")


@pytest.mark.parametrize("template", [path for path in TEMPLATES if path.stem in FAMILIES], ids=lambda path: path.stem)
async def test_the_engine_generates_with_each_family(template):
    """The demo model writes none of these formats: what it writes is a reply all the same."""
    async with served(template) as service:
        for name in GENERATED:
            arguments = {**CONVERSATIONS[name], "max_tokens": 8, "temperature": 0}
            reply = await service.chat_completion(**arguments)
            assert reply.finish_reason in ("stop", "length", "tool_calls")
            assert reply.content or reply.reasoning or reply.tool_calls or reply.usage.completion_tokens <= 8
            assert reply.usage.completion_tokens <= 8
