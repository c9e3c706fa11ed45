"""`extra` reaches an engine as it is, and overrides nothing that was checked, on any backend."""

from __future__ import annotations

from typing import Any

import pytest

from miner.core.llms.contract.extra import checked_extra
from miner.errors import InvalidRequestError
from tests.core.services import ENGINES, MESSAGES, service_at
from tests.servers.openai_stub import StubServer

OVERRIDES: list[tuple[dict[str, Any], str]] = [
    ({"model": "big:cloud"}, "model"), ({"MODEL": "big:cloud"}, "MODEL"), ({"Model": "big:cloud"}, "Model"),
    ({"stream": True}, "stream"), ({"stream": False}, "stream"), ({"\u017ftream": True}, "\u017ftream"),
    ({"stream_options": {}}, "stream_options"), ({"messages": []}, "messages"), ({"prompt": "x"}, "prompt"),
    ({"images": ["aGk="]}, "images"), ({"max_tokens": 10**9}, "max_tokens"), ({"n_predict": -1}, "n_predict"),
    ({"max_completion_tokens": 1}, "max_completion_tokens"), ({"temperature": 9}, "temperature"),
    ({"top_k": 3}, "top_k"), ({"seed": 1}, "seed"), ({"stop": ["x"]}, "stop"), ({"tools": []}, "tools"),
    ({"tool_choice": "none"}, "tool_choice"), ({"response_format": None}, "response_format"),
    ({"format": "json"}, "format"), ({"guided_regex": "x"}, "guided_regex"), ({"think": True}, "think"),
    ({"reasoning_effort": "low"}, "reasoning_effort"), ({"keep_alive": -1}, "keep_alive"),
    ({"logprobs": True}, "logprobs"), ({"logit_bias": {}}, "logit_bias"), ({"truncate": True}, "truncate"),
    ({"shift": True}, "shift"), ({"truncate_prompt_tokens": 1}, "truncate_prompt_tokens"),
    ({"return_progress": False}, "return_progress"), ({"extra_body": {"model": "x"}}, "extra_body"),
    ({"options": {"num_predict": -1}}, "options.num_predict"), ({"options": {"Seed": 1}}, "options.Seed"),
    ({"Options": {"num_ctx": 1}}, "Options"), ({"options": 3}, "options"),
    ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages"),
    ({"chat_template_kwargs": {"enable_thinking": True}}, "chat_template_kwargs.enable_thinking"),
    ({"ignore_eos": True, "model": "x"}, "model"),
]  # fmt: skip


@pytest.mark.parametrize("engine", [*ENGINES, "llamacpp"])
async def test_what_was_checked_is_not_overridden(engine):
    async with StubServer(models=["m", "big:cloud"]) as server, service_at(engine, server.url) as service:
        for extra, name in OVERRIDES:
            with pytest.raises(InvalidRequestError) as refused:
                await service.chat_completion(MESSAGES, model="m", extra=extra)
            assert refused.value.param == f"extra.{name}"
            assert f"extra.{name}" in str(refused.value)
            with pytest.raises(InvalidRequestError):
                await service.generate("Hi", "m", extra=extra, unsupported="ignore")
            with pytest.raises(InvalidRequestError):
                service.stream("Hi", model="m", extra=extra)
        assert not server.bodies
        await service.chat_completion(MESSAGES, model="m", extra={"options": {"num_ctx": 256}})
        sent = server.bodies[-1]
    assert sent["options"]["num_ctx"] == 256
    assert engine != "ollama" or sent["options"]["num_predict"] == 512  # ours are still there


def test_the_way_out_is_named():
    for extra, way in [
        ({"model": "x"}, "parameter model"),
        ({"stream": 1}, "stream()"),
        ({"n_predict": 1}, "max_tokens"),
    ]:
        with pytest.raises(InvalidRequestError, match="would override the request") as refused:
            checked_extra(extra)
        assert way in str(refused.value)
