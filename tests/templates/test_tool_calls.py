"""Tool calls in the formats of the big families, on the real engine (`-m templates`): a model with the family's chat
template and special tokens says what such models say, and the engine's own parser reads it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from miner.core.llms.llm_llamacpp import LlamaCppService
from tests.core.services import WEATHER
from tests.gateway.serving import Served, config, post, serving
from tests.paths import DATA
from tests.scripted_model import write_scripted_model
from tests.templates.test_templates import TEMPLATES

pytestmark = pytest.mark.templates

ARGUMENTS = '{"city": "Paris", "days": 3}'
WEATHER_OF_DAYS = {
    "type": "function",
    "function": {
        **WEATHER["function"],
        "parameters": {
            "type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}  # fmt: skip
_HERMES = f'<tool_call>\n{{"name": "get_weather", "arguments": {ARGUMENTS}}}\n</tool_call>'
_QWEN_XML = (
    "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n<parameter=days>\n3\n</parameter>\n"
    "</function>\n</tool_call>"
)
_LLAMA = f'{{"name": "get_weather", "parameters": {ARGUMENTS}}}'
_DEEPSEEK = (
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>"
    f"{ARGUMENTS}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
)
_DSML = (
    '<｜DSML｜function_calls>\n<｜DSML｜invoke name="get_weather">\n'
    '<｜DSML｜parameter name="city" string="true">Paris</｜DSML｜parameter>\n'
    '<｜DSML｜parameter name="days" string="false">3</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls>'
)
_HARMONY = (
    "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather "
    f"<|constrain|>json<|message|>{ARGUMENTS}"
)
_KIMI = (
    "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>"
    f"{ARGUMENTS}<|tool_call_end|><|tool_calls_section_end|>"
)
_COHERE = (
    '<|START_THINKING|>Hm.<|END_THINKING|><|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "get_weather", '
    f'"parameters": {ARGUMENTS}}}\n]<|END_ACTION|>'
)
_GLM = (
    "<think>Hm.</think>\n<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n"
    "<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>"
)
_IM = ("<|im_end|>", "<|im_start|>")
_HEADERS = ("<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>")
_INST = ("</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]", "[THINK]", "[/THINK]")
_BARS = ("<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>")
_ROLES = ("<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>")


class Family(NamedTuple):
    """What a model of a family says when it calls the tool."""

    said: str
    special: tuple[str, ...]
    """Special tokens; the first ends a reply."""
    reasons: bool = False
    streams: bool = True
    """Whether the engine's parser or ours delivers the arguments in pieces; if not, the call comes at the end."""


FAMILIES: dict[str, Family] = {
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": Family(_HERMES, _IM),
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": Family(_HERMES, _IM),
    "Qwen-Qwen2.5-7B-Instruct": Family(_HERMES, _IM),
    "Qwen-Qwen3-0.6B": Family(f"<think>\nHm.\n</think>\n\n{_HERMES}", _IM, reasons=True),
    "Qwen3-Coder": Family(_QWEN_XML, _IM),
    "Qwen3.5-4B": Family(f"Hm.\n</think>\n\n{_QWEN_XML}", _IM, reasons=True),
    "meta-llama-Llama-3.1-8B-Instruct": Family(_LLAMA, _HEADERS),
    "meta-llama-Llama-3.2-3B-Instruct": Family(_LLAMA, _HEADERS),
    "mistralai-Mistral-Nemo-Instruct-2407": Family(
        f'[TOOL_CALLS][{{"name": "get_weather", "arguments": {ARGUMENTS}, "id": "abcdefgh1"}}]', _INST
    ),
    "Mistral-Small-3.2-24B-Instruct-2506": Family(f"[TOOL_CALLS]get_weather[CALL_ID]abcdefgh1[ARGS]{ARGUMENTS}", _INST),
    "mistralai-Ministral-3-14B-Reasoning-2512": Family(
        f"[THINK]Hm.[/THINK][TOOL_CALLS]get_weather[ARGS]{ARGUMENTS}", _INST, reasons=True
    ),
    "openai-gpt-oss-120b": Family(
        _HARMONY,
        ("<|call|>", "<|return|>", "<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|end|>"),
        reasons=True,
    ),
    # Its template does not describe tools, so that they are emulated; what it was trained on is read all the same.
    "deepseek-ai-DeepSeek-V3.1": Family(
        f"Hm.</think>{_DEEPSEEK}",
        (*_BARS, "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"),
        reasons=True,
        streams=False,
    ),
    "deepseek-ai-DeepSeek-V3.2": Family(_DSML, _BARS),
    "google-gemma-2-2b-it": Family(_HERMES, ("<end_of_turn>", "<start_of_turn>")),
    "google-gemma-4-31B-it": Family(
        '<|tool_call>call:get_weather{city:<|"|>Paris<|"|>,days:3}<tool_call|>',
        ("<turn|>", "<|turn>", "<|tool_call>", "<tool_call|>", '<|"|>'),
    ),
    # The engine's parser knows no calls of this template.
    "ibm-granite-granite-3.3-2B-Instruct": Family(
        f'<|tool_call|>[{{"name": "get_weather", "arguments": {ARGUMENTS}}}]', (*_ROLES, "<|tool_call|>"), streams=False
    ),
    "ibm-granite-granite-4.0": Family(_HERMES, _ROLES),
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": Family(
        _COHERE,
        ("<|END_OF_TURN_TOKEN|>", "<|START_OF_TURN_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|START_THINKING|>",
         "<|END_THINKING|>", "<|START_ACTION|>", "<|END_ACTION|>"),
        reasons=True,
    ),
    "GLM-4.6": Family(_GLM, ("<|user|>", "<|assistant|>"), reasons=True),
    "Kimi-K2-Instruct": Family(
        _KIMI,
        ("<|im_end|>", "<|im_middle|>", "<|tool_calls_section_begin|>", "<|tool_call_begin|>",
         "<|tool_call_argument_begin|>", "<|tool_call_end|>", "<|tool_calls_section_end|>"),
    ),
    "SmolLM2": Family(_HERMES, _IM),
}  # fmt: skip


@asynccontextmanager
async def saying(tmp_path: Path, name: str, said: str, special: tuple[str, ...]) -> AsyncIterator[Served]:
    """A gateway over a model that says this."""
    known = {path.stem: path for path in TEMPLATES}
    template = (known[name] if name in known else DATA / "templates" / "plain.jinja").read_text(encoding="utf-8")
    path = write_scripted_model(tmp_path / "m.gguf", said, template=template, end=special[0], special=special[1:])
    settings = config(
        model_path=str(path), llamacpp_threads=1, llamacpp_parallel=1, llamacpp_ctx_size=16384, max_retries=0
    )
    async with serving(LlamaCppService(settings)) as served:
        yield served


async def whole(served: Served, body: dict[str, Any], path: str) -> dict[str, Any]:
    async with post(served, {"model": "m", "stream": False, **body}, path) as answer:
        text = await answer.text()
        assert answer.status == 200, text
    told: dict[str, Any] = json.loads(text)
    return told


async def events(served: Served, body: dict[str, Any], path: str) -> list[dict[str, Any]]:
    async with post(served, {"model": "m", "stream": True, **body}, path) as answer:
        text = await answer.text()
        assert answer.status == 200, text
    lines = [line.removeprefix("data: ") for line in text.splitlines()]
    return [json.loads(line) for line in lines if line.startswith("{")]


FUNCTION = WEATHER_OF_DAYS["function"]
USER = [{"role": "user", "content": "What is the weather in Paris?"}]
CHAT = {"messages": USER, "tools": [WEATHER_OF_DAYS], "max_tokens": 200, "temperature": 0}
RESPONSES = {"input": USER, "tools": [{"type": "function", **FUNCTION}], "max_output_tokens": 200, "temperature": 0}
TOOL = {"name": FUNCTION["name"], "input_schema": FUNCTION["parameters"]}
MESSAGES = {"messages": USER, "tools": [TOOL], "max_tokens": 200, "temperature": 0}


@pytest.mark.parametrize("name", FAMILIES)
async def test_a_call_that_the_model_makes_by_itself_in_every_dialect(name: str, tmp_path: Path):
    family = FAMILIES[name]
    async with saying(tmp_path, name, family.said, family.special) as served:
        chat = (await whole(served, CHAT, "/v1/chat/completions"))["choices"][0]
        (call,) = chat["message"]["tool_calls"]
        assert call["function"]["name"] == "get_weather"
        assert json.loads(call["function"]["arguments"]) == {"city": "Paris", "days": 3}
        assert not chat["message"]["content"]
        assert bool(chat["message"].get("reasoning_content")) is family.reasons
        assert chat["finish_reason"] == "tool_calls"

        choices = [event["choices"][0] for event in await events(served, CHAT, "/v1/chat/completions")]
        deltas = [one for choice in choices for one in choice["delta"].get("tool_calls") or ()]
        assert {one["index"] for one in deltas} == {0}
        assert "".join(one["function"].get("arguments", "") for one in deltas) == call["function"]["arguments"]
        assert (choices[-1]["delta"], choices[-1]["finish_reason"]) == ({}, "tool_calls")

        streamed = await events(served, RESPONSES, "/v1/responses")
        pieces = [e["delta"] for e in streamed if e["type"] == "response.function_call_arguments.delta"]
        assert "".join(pieces) == call["function"]["arguments"]
        assert streamed[-1]["response"]["output"][-1]["name"] == "get_weather"

        streamed = await events(served, MESSAGES, "/v1/messages")
        parts = [e["delta"] for e in streamed if e["type"] == "content_block_delta"]
        json_parts = [part["partial_json"] for part in parts if part["type"] == "input_json_delta"]
        assert "".join(json_parts) == call["function"]["arguments"]
        assert min(len(deltas), len(pieces) + 1, len(json_parts) + 1) > (4 if family.streams else 0)

        lines = await events(
            served, {"messages": USER, "tools": [WEATHER_OF_DAYS], "options": {"temperature": 0}}, "/api/chat"
        )
        calls = [one for line in lines for one in line["message"].get("tool_calls") or ()]
        assert [one["function"]["arguments"] for one in calls] == [{"city": "Paris", "days": 3}]


@pytest.mark.parametrize("name", ["Qwen-Qwen2.5-7B-Instruct", "Qwen3-Coder", "SmolLM2"])
async def test_parallel_calls_have_an_index_each(name: str, tmp_path: Path):
    family = FAMILIES[name]
    second = family.said.replace("Paris", "Rome")
    async with saying(tmp_path, name, f"{family.said}\n{second}", family.special) as served:
        body = CHAT | {"parallel_tool_calls": True}
        chat = (await whole(served, body, "/v1/chat/completions"))["choices"][0]
        cities = [json.loads(call["function"]["arguments"])["city"] for call in chat["message"]["tool_calls"]]
        assert cities == ["Paris", "Rome"]
        choices = [event["choices"][0] for event in await events(served, body, "/v1/chat/completions")]
        texts = ["", ""]
        for choice in choices:
            for one in choice["delta"].get("tool_calls") or ():
                texts[one["index"]] += one["function"].get("arguments", "")
        assert [json.loads(text)["city"] for text in texts] == cities
        only = (await whole(served, CHAT | {"parallel_tool_calls": False}, "/v1/chat/completions"))["choices"][0]
        assert len(only["message"]["tool_calls"]) == 1


@pytest.mark.parametrize(
    "name",
    ["Qwen-Qwen2.5-7B-Instruct", "Qwen3-Coder", "meta-llama-Llama-3.1-8B-Instruct", "openai-gpt-oss-120b", "SmolLM2"],
)
async def test_a_call_that_max_tokens_truncates_is_a_partial_call(name: str, tmp_path: Path):
    family = FAMILIES[name]
    async with saying(tmp_path, name, family.said, family.special) as served:
        full = await whole(served, CHAT, "/v1/chat/completions")
        count = full["usage"]["completion_tokens"]
        seen = set()
        for most in range(count - 16, count - 2, 2):
            choice = (await whole(served, CHAT | {"max_tokens": most}, "/v1/chat/completions"))["choices"][0]
            calls = choice["message"].get("tool_calls") or ()
            assert "<" not in (choice["message"]["content"] or ""), choice
            if choice["finish_reason"] == "length" and calls:
                seen.add(calls[0]["function"]["arguments"])
        assert len(seen) > 1, "arguments that are not complete"
