"""The server in Ollama's form answers as the genuine one was recorded to: keys, types, kinds of lines, errors."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from tests.servers.captures import Capture, capture
from tests.servers.ollama_front import OllamaFront
from tests.servers.threaded import in_thread

pytestmark = pytest.mark.engine

CHAT = {"model": "smollm2", "messages": [{"role": "user", "content": "Tell a very long story about a lighthouse."}]}

ANSWERS = [
    "chat", "chat_stream", "chat_system", "chat_turns", "chat_stop_stream", "chat_length_stream", "chat_logprobs",
    "chat_logprobs_stream", "chat_json_mode", "chat_schema", "chat_schema_stream", "chat_think", "chat_think_stream",
    "chat_think_false", "chat_tools", "chat_tools_stream", "chat_tools_parallel", "chat_tools_parallel_stream",
    "chat_tools_second_turn", "chat_null_content", "chat_predict_0", "chat_stream_utf8",
    "embed", "embed_one", "embed_empty",
    "embed_empty_string", "embed_dimensions", "err_option_unknown", "err_temperature_negative", "err_top_p",
    "generate", "generate_stream", "generate_raw", "generate_raw_stream", "generate_schema", "generate_stop",
    "generate_system", "generate_length", "load", "num_ctx_larger", "root", "show", "show_tools", "tags", "version",
    "unload",
]  # fmt: skip
SAME_TEXT = [
    "chat", "chat_stream", "chat_system", "chat_turns", "chat_length_stream", "generate", "generate_length",
]  # fmt: skip
SAME_PROMPT = [*SAME_TEXT, "chat_think", "chat_logprobs", "chat_schema", "generate_raw", "generate_schema"]

ERRORS = [
    "chat_on_embed_model", "chat_parts_content", "chat_think_refused", "chat_tools_refused", "embed_on_chat_model",
    "embed_unknown", "err_format", "err_image", "err_keep_alive", "err_model", "err_model_generate",
    "err_option_stop_string", "err_option_type", "err_top_logprobs", "generate_on_embed_model", "generate_suffix",
    "show_unknown", "unknown_method", "unknown_path", "overflow_num_ctx_truncate_false",
]  # fmt: skip


@pytest.fixture(scope="module")
def front() -> Iterator[OllamaFront]:
    # The recorded requests break the file on purpose here and there.
    with in_thread(OllamaFront(check_spec=False, parallel=1)) as server:
        yield server


async def ask(front: OllamaFront, item: Capture) -> tuple[int, str, bytes]:
    async with (
        aiohttp.ClientSession() as session,
        session.request(item.method, front.url + item.path, json=item.request) as response,
    ):
        return response.status, response.headers.get("content-type", ""), await response.read()


async def until(met: Callable[[], bool]) -> None:
    for _ in range(3000):
        if met():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("waited 30 s in vain")


def shape(value: Any) -> Any:
    """The keys in their order and the types, without the values."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__


def kinds(lines: list[Any]) -> list[str]:
    """The shapes of the lines, neighbours that are alike taken together; key order counts."""
    told: list[str] = []
    for line in lines:
        text = json.dumps(shape(line))
        if not told or told[-1] != text:
            told.append(text)
    return told


def text_of(lines: list[Any]) -> str:
    return "".join(line.get("response") or (line.get("message") or {}).get("content") or "" for line in lines)


@pytest.mark.parametrize("name", ANSWERS)
async def test_an_answer_is_shaped_as_the_recorded_one(front: OllamaFront, name: str):
    item = capture("ollama", name)
    status, kind, body = await ask(front, item)
    assert (status, kind) == (item.status, item.headers["content-type"])
    if "json" not in kind:
        assert body == item.body
        return
    if item.headers["content-type"].startswith("application/x-ndjson"):
        assert body.endswith(b"\n")
    lines = [json.loads(line) for line in body.splitlines()]
    assert kinds(lines) == kinds(item.lines)
    # At any other temperature the answer may be longer or shorter.
    if ((item.request or {}).get("options") or {"temperature": 0}).get("temperature") == 0:
        assert lines[-1].get("done_reason") == item.lines[-1].get("done_reason")
    if name in SAME_TEXT:
        assert text_of(lines) == text_of(item.lines)
        assert lines[-1]["eval_count"] == item.lines[-1]["eval_count"]
    if name in SAME_PROMPT:
        assert lines[-1]["prompt_eval_count"] == item.lines[-1]["prompt_eval_count"]
    if "created_at" in lines[0]:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", lines[0]["created_at"])


@pytest.mark.parametrize("name", ERRORS)
async def test_an_error_reads_as_the_recorded_one(front: OllamaFront, name: str):
    item = capture("ollama", name)
    status, kind, body = await ask(front, item)
    assert status == item.status
    assert kind.split(";")[0] == item.headers["content-type"].split(";")[0]
    if "json" not in kind:
        assert body == item.body
        return
    said, recorded = json.loads(body)["error"], item.json["error"]
    if recorded.startswith("{"):
        # llama.cpp's own error inside a string; its wording and counts are another version's.
        assert shape(json.loads(said)) == shape(json.loads(recorded))
        assert json.loads(said)["error"]["type"] == json.loads(recorded)["error"]["type"]
    else:
        assert said == recorded


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_ends_where_the_context_does(front: OllamaFront, stream: bool):
    item = capture("ollama", f"context_exhausted_shift_false{'_stream' if stream else ''}")
    endless = {"type": "array", "items": {"type": "integer"}, "minItems": 300}  # more than 256 tokens
    _, _, body = await ask(front, replace(item, request=item.request | {"format": endless}))
    lines = [json.loads(line) for line in body.splitlines()]
    assert kinds(lines) == kinds(item.lines)
    assert lines[-1]["done_reason"] == "length"
    assert lines[-1]["prompt_eval_count"] + lines[-1]["eval_count"] == 256


async def test_a_bad_schema_is_an_error_in_an_error(front: OllamaFront):
    status, _, body = await ask(front, capture("ollama", "err_schema"))
    assert (status, json.loads(json.loads(body)["error"])["error"]["code"]) == (400, 400)


async def test_a_long_prompt_is_truncated_silently_by_default(front: OllamaFront):
    item = capture("ollama", "overflow_num_ctx_default")
    status, _, body = await ask(front, item)
    answer = json.loads(body)
    assert (status, answer["done"], shape(answer)) == (200, True, shape(item.json))
    assert answer["prompt_eval_count"] < 256


async def test_markup_is_escaped_as_go_does(front: OllamaFront):
    item = capture("ollama", "chat_schema")
    _, _, body = await ask(front, replace(item, request=item.request | {"format": {"enum": ["<b>&"]}}))
    assert json.loads(json.loads(body)["message"]["content"]) == "<b>&"
    assert rb"\u003cb\u003e\u0026" in body


async def test_every_model_can_be_listed_shown_and_loaded(front: OllamaFront):
    _, _, body = await ask(front, capture("ollama", "tags"))
    models = {model["name"]: model["capabilities"] for model in json.loads(body)["models"]}
    assert sorted(models) == [f"smollm2{kind}:latest" for kind in ("-embed", "-think", "-tools", "")]
    for name, capabilities in models.items():
        _, _, body = await ask(front, replace(capture("ollama", "show"), request={"model": name}))
        assert json.loads(body)["capabilities"] == capabilities


async def test_what_is_loaded_and_with_which_context(front: OllamaFront):
    await ask(front, capture("ollama", "num_ctx_larger"))
    status, _, body = await ask(front, capture("ollama", "ps_loaded"))
    assert (status, shape(json.loads(body))) == (200, shape(capture("ollama", "ps_loaded").json))
    sizes = {model["name"]: model["context_length"] for model in json.loads(body)["models"]}
    assert sizes["smollm2:latest"] == 4096


async def test_a_killed_runner_is_an_error_line_in_the_stream_and_the_next_request_loads_anew():
    async with OllamaFront(parallel=1) as front, aiohttp.ClientSession() as session:
        body = CHAT | {"options": {"num_predict": 3000, "temperature": 0.9, "seed": 3}}
        async with session.post(front.url + "/api/chat", json=body) as response:
            lines = []
            async for line in response.content:
                lines.append(json.loads(line))
                if len(lines) == 3:
                    front.models.kill()
        assert response.status == 200
        assert lines[-1] == capture("ollama", "fault_runner_killed_stream").lines[-1]
        whole = asyncio.create_task(session.post(front.url + "/api/chat", json=body | {"stream": False}).__aenter__())
        await until(lambda: front.models.loads == 2)
        await asyncio.sleep(0.3)
        front.models.kill()
        async with await whole as response:
            killed = capture("ollama", "fault_runner_killed_nostream")
            assert (response.status, await response.json()) == (killed.status, killed.json)
        async with session.post(front.url + "/api/chat", json=CHAT | {"options": {"num_predict": 4}}) as response:
            assert response.status == 200
            assert (await response.text()).endswith("}\n")


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_frees_the_slot(stream: bool):
    async with OllamaFront(parallel=1) as front, aiohttp.ClientSession() as session:
        async with session.post(front.url + "/api/generate", json={"model": "smollm2"}) as response:
            assert (await response.json())["done_reason"] == "load"
        endless = CHAT | {"stream": stream, "options": {"num_predict": 100000, "temperature": 1.5, "seed": 1}}
        endless["format"] = {"type": "array", "items": {"type": "integer"}, "minItems": 1500}
        call = asyncio.create_task(session.post(front.url + "/api/chat", json=endless).__aenter__())
        if stream:
            response = await call
            await response.content.readline()
            response.close()
        else:
            await until(lambda: len(front.bodies) == 2)
            await asyncio.sleep(0.3)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
        short = CHAT | {"stream": False, "options": {"num_predict": 4}}
        async with asyncio.timeout(30), session.post(front.url + "/api/chat", json=short) as response:
            assert (await response.json())["eval_count"] == 4
        assert front.disconnects == 1


async def test_a_request_outside_ollamas_file_fails_the_test():
    async def ask() -> None:
        async with OllamaFront() as front, aiohttp.ClientSession(front.url) as session:
            response = await session.post("/api/show", json={"modell": "smollm2"})
            assert response.status == 404

    with pytest.raises(AssertionError, match="modell"):
        await ask()


async def test_in_front_of_a_server_that_runs_already(front: OllamaFront):
    await ask(front, capture("ollama", "load"))
    runner = front.models._runners["smollm2"]
    async with OllamaFront(upstream=str(runner._session._base_url)) as other, aiohttp.ClientSession() as session:
        async with session.post(
            other.url + "/api/chat", json=CHAT | {"stream": False, "options": {"num_predict": 3}}
        ) as response:
            assert (await response.json())["eval_count"] == 3
        async with session.post(other.url + "/api/chat", json=CHAT | {"model": "smollm2-tools"}) as response:
            assert response.status == 404
