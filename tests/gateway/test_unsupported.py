"""What is not supported: refused, or left out and listed, by request, key and server, in every dialect."""

from __future__ import annotations

from typing import Any

import pytest

from miner.core.llms.llm_vllm import VLLMService
from tests.gateway.apis.anthropic.test_messages import USER
from tests.gateway.serving import Parrot, config, post, serving, vllm
from tests.servers.openai_stub import StubServer

ROUTES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": USER}),
    ("/v1/completions", {"prompt": "x"}),
    ("/v1/responses", {"input": "x"}),
    ("/v1/messages", {"messages": USER, "max_tokens": 9}),
    ("/api/chat", {"messages": USER, "stream": False}),
    ("/api/generate", {"prompt": "x", "stream": False}),
]


async def reply(served: Any, path: str, body: dict[str, Any], **headers: str) -> tuple[int, str, list[str]]:
    async with post(served, {"model": "m", **body}, path, headers=headers) as response:
        skipped = response.headers.get("x-miner-ignored-params", "")
        names = [name for name in skipped.split(", ") if name not in ("", "raw")]  # Parrot has no template
        return response.status, await response.text(), names


@pytest.mark.parametrize(("path", "body"), ROUTES)
async def test_what_adds_is_left_out_and_listed_and_what_changes_the_response_is_refused(path, body):
    async with serving(Parrot(config())) as served:
        status, text, skipped = await reply(served, path, {**body, "agent_hints": {"a": 1}})
        assert (status, skipped) == (200, ["agent_hints"]), text
        status, text, _ = await reply(served, path, {**body, "thread": {"id": "x"}})
        assert status == 400
        assert "thread" in text
        status, text, skipped = await reply(
            served, path, {**body, "thread": {"id": "x"}}, **{"X-Miner-Unsupported": "skip"}
        )
        assert (status, skipped) == (200, ["thread"]), text
        status, text, _ = await reply(served, path, {**body, "agent_hints": {}}, **{"X-Miner-Unsupported": "refuse"})
        assert status == 400
        assert "agent_hints" in text


@pytest.mark.parametrize("empty", [None, False, "", [], {}])
async def test_a_field_that_asks_for_nothing_is_no_reason_to_refuse(empty):
    async with serving(Parrot(config())) as served:
        for path, body in ROUTES:
            for field in ("thread", "documents", "agent_hints"):
                assert (await reply(served, path, {**body, field: empty}))[::2] == (200, [])


async def test_a_field_of_another_api_is_refused_with_the_name_that_it_has_in_this_one():
    async with serving(Parrot(config())) as served:
        status, text, _ = await reply(served, "/v1/responses", {"input": "x", "max_tokens": 9})
    assert status == 400
    assert "Did you mean 'max_output_tokens'" in text


async def test_a_misspelled_field_is_refused_with_the_right_name():
    async with serving(Parrot(config())) as served:
        status, text, _ = await reply(served, "/v1/chat/completions", {"messages": USER, "temprature": 0.1})
        assert status == 400
        assert "Did you mean 'temperature'" in text
        status, _, skipped = await reply(
            served, "/v1/chat/completions", {"messages": USER, "temprature": 0.1}, **{"X-Miner-Unsupported": "skip"}
        )
        assert (status, skipped) == (200, ["temprature"])


async def test_a_misspelled_name_that_another_api_has_is_refused_too():
    async with serving(Parrot(config())) as served:
        status, text, _ = await reply(served, "/v1/responses", {"input": "x", "max_toknes": 5})
        assert status == 400
        assert "max_toknes" in text


@pytest.mark.parametrize(
    "metadata", [{str(number): "x" for number in range(17)}, {"k" * 65: "x"}, {"k": "x" * 513}, {"k": 1}]
)
async def test_metadata_is_bounded(metadata):
    async with serving(Parrot(config())) as served:
        status, text, _ = await reply(served, "/v1/responses", {"input": "x", "metadata": metadata})
        assert status == 400
        assert "metadata" in text
        assert (await reply(served, "/v1/responses", {"input": "x", "metadata": {"k": "v"}}))[0] == 200


async def test_unknown_fields_inside_of_known_objects_are_listed_once_by_their_place():
    parts = [{"type": "text", "text": "a", "tag": 1}, {"type": "text", "text": "b", "tag": 2}]
    body = {"messages": [{"role": "user", "content": parts, "note": 1}], "max_tokens": 9}
    async with serving(Parrot(config())) as served:
        status, text, skipped = await reply(served, "/v1/messages", body)
    assert (status, sorted(skipped)) == (200, ["messages.content.tag", "messages.note"]), text


async def test_the_server_and_the_header_decide():
    async with serving(Parrot(config()), serve_unsupported="refuse") as served:
        path, body = ROUTES[0]
        assert (await reply(served, path, {**body, "agent_hints": 1}))[0] == 400
        assert (await reply(served, path, {**body, "agent_hints": 1}, **{"X-Miner-Unsupported": "skip"}))[0] == 200
        status, text, _ = await reply(served, path, body, **{"X-Miner-Unsupported": "perhaps"})
        assert status == 400
        assert "X-Miner-Unsupported must be refuse, default or skip" in text


async def test_a_field_that_the_engine_knows_reaches_it(monkeypatch):
    async with StubServer() as engine, serving(vllm(engine)) as served:
        monkeypatch.setattr(VLLMService, "engine_fields", frozenset({"min_tokens"}))
        status, text, skipped = await reply(served, "/v1/chat/completions", {"messages": USER, "min_tokens": 3})
        assert (status, skipped) == (200, []), text
        assert engine.bodies[-1]["min_tokens"] == 3


async def test_an_unknown_option_of_ollama_is_listed_and_goes_nowhere():
    async with StubServer() as engine, serving(vllm(engine)) as served:
        options = {"extra": {"model": "other"}, "no_such": 1, "num_predict": 5}
        status, text, skipped = await reply(
            served, "/api/chat", {"messages": USER, "stream": False, "options": options}
        )
        assert status == 200, text
        assert sorted(skipped) == ["options.extra", "options.no_such"]
        assert engine.bodies[-1]["model"] == "m"


async def test_json_that_breaks_off_behind_an_unknown_field_is_named_as_such():
    async with serving(Parrot(config())) as served:
        for path, _ in ROUTES:
            async with post(served, b'{"model": "m", "nonsense_field": 1, "max_tokens": 4.0, oops', path) as response:
                assert response.status == 400
                assert "is not valid JSON" in await response.text()
