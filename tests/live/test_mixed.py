"""One gateway over a table of six models (`-m mixed`): two chat models, embeddings and a ranker on llama.cpp, a real
vLLM server as a supervised command, and recordings of an Ollama server. Asked by the official clients.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import anthropic
import ollama
import openai
import psutil
import pytest

from tests.servers.replay import ReplayServer

pytestmark = pytest.mark.mixed

ROOT = Path(__file__).parents[2]
WAIT = 300
TABLE = """
[variables]
MODELS = "{models}"

[backends.local]
kind = "llamacpp"
[backends.gpu]
kind = "vllm"
command = ["{python}", "{root}/scripts/vllm_cpu.py", "serve", "--port", "${{PORT}}"]
env = {{ HOME = "{home}", MINER_CACHE = "{cache}" }}
start_timeout = 240
memory = "3GiB"
[backends.den]
kind = "ollama"
url = "{ollama}"

[defaults]
model = "smol"
context = 1024
slots = 2
sampling = {{ temperature = 0 }}

[models.smol]
backend = "local"
file = "demo"
aliases = ["claude-*", "gpt-4o-mini"]
[models.gemma]
backend = "local"
file = "${{MODELS}}/gemma.gguf"
[models.vectors]
backend = "local"
file = "${{MODELS}}/minilm.gguf"
[models.ranker]
backend = "local"
file = "${{MODELS}}/ranker.gguf"
pooling = "rank"
[models.served]
backend = "gpu"
name = "smollm2"
[models.recorded]
backend = "den"
name = "smollm2"
"""


@asynccontextmanager
async def miner_serve(directory: Path, table: str) -> AsyncIterator[tuple[str, psutil.Process]]:
    """`miner serve --config` as an operator runs it: its URL and its process."""
    file = directory / "miner.toml"
    file.write_text(table)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = (directory / "serve.log").open("wb")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "miner", "serve", "--config", str(file), "--port", str(port), cwd=directory,
        stdout=log, stderr=log, env={**os.environ, "XDG_STATE_HOME": str(directory), "XDG_CONFIG_HOME": str(directory)},
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        async with asyncio.timeout(WAIT), aiohttp.ClientSession() as session:
            while True:
                assert process.returncode is None, (directory / "serve.log").read_text()
                try:
                    async with session.get(f"{url}/readyz") as response:
                        if response.status == 200:
                            break
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.5)
        yield url, psutil.Process(process.pid)
    finally:
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(60):
            await process.wait()
        log.close()
        print((directory / "serve.log").read_text()[-6000:])


@asynccontextmanager
async def served(tmp_path: Path) -> AsyncIterator[tuple[str, psutil.Process]]:
    models = os.environ.get("MINER_MIXED_MODELS")
    assert models, "set MINER_MIXED_MODELS to what scripts/mixed_models.py prints, or run scripts/mixed"
    home = Path.home()
    async with ReplayServer("ollama", check_spec=False) as recordings:
        table = TABLE.format(
            models=models, python=sys.executable, root=ROOT, ollama=recordings.url, home=home,
            cache=os.environ.get("MINER_CACHE") or home / ".cache" / "miner",
        )  # fmt: skip
        async with miner_serve(tmp_path, table) as (url, process):
            yield url, process


async def states(url: str) -> dict[str, dict[str, Any]]:
    async with aiohttp.ClientSession() as session, session.get(f"{url}/admin/models") as response:
        return {model["name"]: model for model in (await response.json())["models"]}


async def stream_of(client: openai.AsyncOpenAI, model: str, tokens: int) -> Any:
    return await client.completions.create(
        model=model, prompt="Once upon a time", max_tokens=tokens, stream=True, extra_body={"ignore_eos": True}
    )


async def test_one_gateway_over_six_models(tmp_path):
    async with (
        served(tmp_path) as (url, process),
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="-", timeout=WAIT, max_retries=0) as client,
    ):
        await six_names_are_six_different_things(url, client)
        for victim in ("smol", "gemma"):  # vLLM: test_vllm_command.py
            await one_dies_while_the_others_stream(victim, client, process)


async def six_names_are_six_different_things(url: str, client: openai.AsyncOpenAI) -> None:
    question = [{"role": "user", "content": "Say hello."}]
    listed = [model.id async for model in await client.models.list()]
    assert {"smol", "gemma", "vectors", "ranker", "served", "recorded"} <= set(listed)
    replies = {}
    for name in ("smol", "served", "recorded"):
        reply = await client.chat.completions.create(model=name, messages=question, max_tokens=16)
        assert reply.model == name
        replies[name] = reply.choices[0].message.content
    whole = await client.completions.create(model="gemma", prompt="The capital of France is", max_tokens=4)
    replies["gemma"] = whole.choices[0].text
    assert all(replies.values())
    assert replies["gemma"] not in (replies["smol"], replies["served"], replies["recorded"])
    vectors = await client.embeddings.create(
        model="vectors", input=["A cat sits on the mat.", "A kitten lies on a rug.", "Stock prices fell today."]
    )
    cat, kitten, stocks = (item.embedding for item in vectors.data)
    assert len(cat) == 384
    assert _dot(cat, kitten) > _dot(cat, stocks) + 0.2
    async with aiohttp.ClientSession() as session:
        body = {"model": "ranker", "query": "cat", "documents": ["a dog", "a cat", "the moon"]}
        async with session.post(f"{url}/v1/rerank", json=body) as response:
            ranked = await response.json()
    assert len({result["relevance_score"] for result in ranked["results"]}) == 3
    for name, call in {
        "smol": client.embeddings.create(model="smol", input="x"),
        "vectors": client.chat.completions.create(model="vectors", messages=question),
    }.items():
        with pytest.raises(openai.BadRequestError) as caught:
            await call
        assert name in str(caught.value)
    async with anthropic.AsyncAnthropic(base_url=url, api_key="-", timeout=WAIT) as claude:
        message = await claude.messages.create(model="claude-of-the-house", max_tokens=16, messages=question)
        assert message.content[0].text
    asking = ollama.AsyncClient(url, timeout=WAIT)
    told = await asking.chat("smol", question, options={"num_predict": 16})
    await asking._client.aclose()
    assert told.message.content
    now = await states(url)
    assert {now[name]["state"] for name in ("smol", "gemma", "vectors", "ranker", "served")} == {"ready"}
    assert now["recorded"]["state"] == "remote"
    assert now["served"]["kind"] == "vllm"


async def one_dies_while_the_others_stream(victim: str, client: openai.AsyncOpenAI, process: psutil.Process) -> None:
    streams = {name: await stream_of(client, name, 120) for name in ("smol", "gemma", "served")}
    results = [asyncio.create_task(_read(streams[name])) for name in streams]
    await asyncio.sleep(0.3)
    for child in _processes(process, victim):
        child.send_signal(signal.SIGKILL)
    async with asyncio.timeout(WAIT):
        ended = dict(zip(streams, await asyncio.gather(*results), strict=True))
    for name, reason in ended.items():
        if name == victim:
            assert reason in ("length", "stop") or "crash" in reason.lower(), ended
        else:
            assert reason in ("length", "stop"), ended
    async with asyncio.timeout(WAIT):
        while True:  # it is started again, after a pause
            try:
                again = await client.completions.create(model=victim, prompt="Hi", max_tokens=2)
                break
            except openai.InternalServerError:
                await asyncio.sleep(1)
    assert again.choices[0].text is not None


def _processes(gateway: psutil.Process, model: str) -> list[psutil.Process]:
    """The processes of a model's engine."""
    found = []
    for child in gateway.children():
        inside = [child, *child.children(recursive=True)]
        words = " ".join(" ".join(each.cmdline()) + " ".join(map(_files, [each])) for each in inside)
        wanted = {"smol": "SmolLM2-135M", "gemma": "gemma.gguf"}[model]
        if wanted in words:
            found += inside
    assert found, f"no process of {model}"
    return found


def _files(process: psutil.Process) -> str:
    """Files that a process has mapped: a model's among them."""
    try:
        return " ".join(region.path for region in process.memory_maps())
    except psutil.Error:
        return ""


async def _read(stream: Any) -> str:
    """Read a stream; its finish reason, or its error."""
    reason = ""
    try:
        async for chunk in stream:
            reason = (chunk.choices and chunk.choices[0].finish_reason) or reason
    except (openai.APIError, json.JSONDecodeError) as error:
        return str(error)
    return reason


def _dot(first: list[float], second: list[float]) -> float:
    return sum(a * b for a, b in zip(first, second, strict=True))
